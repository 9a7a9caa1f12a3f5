"""MLflow runs of a pipeline: one parent per pipeline, one child per kind of step, one grandchild per step.

The driver logs everything in batches; workers send it what they record (see `cluster.tracking.recorder`). An outbox
passes it on, so that no error of MLflow ends a run that has started.

Logs how busy the driver's machine is during a run, as MLflow's system metrics.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import TrackingError
from cluster.provenance import user
from cluster.redaction import redact, redact_values
from cluster.store.lease import Owner, locked
from cluster.store.manifest import Manifest
from cluster.tracking.outbox import Outbox
from cluster.tracking.recorder import LogBatch
from cluster.tracking.run_logger import SECONDS, DatasetsOf, RunGroups, RunLogger, no_datasets

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient


SAMPLING_INTERVAL_S = 10
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's own variable; false disables system metrics."""


class SystemMetrics:
    """Logs CPU, memory, disk and network (and GPUs if NVIDIA's library is installed) every ten seconds.

    Each sample takes a few milliseconds. Sampling starts with the first step, so a run of cached steps has no samples.
    """

    def __init__(self, run_id: str, uri: str) -> None:
        self._run_id = run_id
        self._uri = uri
        self._monitor: SystemMetricsMonitor | None = None
        self._may_start = os.environ.get(SWITCH, "true").lower() not in ("false", "0")

    def start(self) -> None:
        """Starts sampling; a second call does nothing."""
        if not self._may_start:
            return
        self._may_start = False
        try:
            # MLflow's first import follows `tracker._client`, which sets its environment.
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # noqa: PLC0415  (slow)

            self._monitor = SystemMetricsMonitor(
                self._run_id, sampling_interval=SAMPLING_INTERVAL_S, tracking_uri=self._uri
            )
            self._monitor.start()
        except Exception:  # a system that cannot be measured must not end the run
            self._monitor = None

    def stop(self) -> None:
        """Stops sampling and logs the last sample."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            with suppress(Exception):  # of a server that does not answer
                monitor.finish()


EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without this tag the pages of MLflow guess, and may show training runs as evaluations of chats."""
OWNER, PARENT, DESCRIPTION = "step.owner", "mlflow.parentRunId", "mlflow.note.content"
STATUS, FINGERPRINT = "step.status", "step.fingerprint"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedStep:
    """A step as MLflow shows it.

    Args:
        name: Name of the step and its run.
        fingerprint: Its fingerprint.
        params: Its config: dotted names and plain values.
        kind: What steps of one kind have in common; default: the first part of the name.
    """

    name: str
    fingerprint: str
    params: Mapping[str, Any]
    kind: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its run."""
        return {FINGERPRINT: self.fingerprint, "step.kind": self.kind or self.name.partition("/")[0]}


class NullTracker:
    """Logs nothing: for runs without MLflow."""

    def start_step(self, step: TrackedStep, attempt: int = 1) -> str | None:
        """See `Tracker`."""
        del step, attempt
        return None

    def log_records(self, batch: LogBatch) -> None:
        """See `Tracker`."""

    def end_step(self, name: str, status: str = "FINISHED", manifest: Manifest | None = None) -> None:
        """See `Tracker`."""

    def log_cached(self, step: TrackedStep, manifest: Manifest) -> str | None:
        """See `Tracker`."""
        del step, manifest
        return None

    def new_problems(self) -> list[str]:
        """See `Tracker`."""
        return []


class Tracker:
    """All runs of one pipeline run. Use as a context manager, which ends the parent run.

    `parent` is the run of the pipeline, to which the caller may log. A step that resumes after a failed or killed
    attempt continues the run of that attempt, so that its curves are complete.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        run_name: str,
        *,
        uri: str,
        tags: Mapping[str, str],
        datasets: DatasetsOf = no_datasets,
    ) -> None:
        self.uri = uri
        self.client = client
        self._datasets = datasets
        self.experiment_id = experiment_id
        self._running: dict[str, _StepRun] = {}
        self._end_orphans()
        self._outbox = Outbox(client, experiment_id, uri)
        self._unfinished = self._find_unfinished()
        run = client.create_run(experiment_id, tags=_tags({**tags, STATUS: "pipeline"}), run_name=run_name)
        self.parent = RunLogger(self._outbox, str(run.info.run_id))
        self._is_closed = False
        self._groups = RunGroups(self.parent.run_id, self._create_group)
        self._system_metrics = SystemMetrics(self.parent.run_id, uri)

    @classmethod
    def open(
        cls,
        store: Path,
        experiment: str,
        run_name: str,
        *,
        uri: str | None = None,
        tags: Mapping[str, str] | None = None,
        datasets: DatasetsOf = no_datasets,
    ) -> Tracker:
        """Starts the parent run.

        Args:
            store: Folder of the store. By default its `mlflow.db` has the runs, and `mlartifacts` their files.
            experiment: Name of the experiment, which is created if it does not exist.
            run_name: Name of the parent run.
            uri: Tracking server, or `sqlite:////absolute/path.db`.
            tags: Tags of the parent run.
            datasets: Returns the data of a step. Called when the step starts and when it has a result.

        Raises:
            TrackingError: the address is relative, or MLflow cannot use it.
        """
        uri = uri or tracking_uri(store)
        if uri.startswith("sqlite:") and not uri.startswith("sqlite:////"):
            raise TrackingError(
                f"the tracking address {uri} is relative, so each process would use another database.",
                "Use an absolute path with four slashes: sqlite:////data/mlflow.db.",
            )
        database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None
        folder = database.parent if database else store
        try:
            # The lock keeps two drivers from creating the tables of one database.
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if database is not None and not database.exists():
                    _create_database(database)
                client = _client(uri)
                experiment_id = _experiment_id(client, experiment, store if database else None)
            return cls(client, experiment_id, run_name, uri=uri, tags=tags or {}, datasets=datasets)
        except Exception as error:
            raise TrackingError(
                f"MLflow at {uri} cannot be used: {error}.", "Check the address and the server."
            ) from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, error_class: type[BaseException] | None, *_: object) -> None:
        if error_class is None:
            self.close("FINISHED")
        else:
            self.close("FAILED" if issubclass(error_class, Exception) else "KILLED")

    def start_step(self, step: TrackedStep, attempt: int = 1) -> str | None:
        """Starts the run of a step, or continues the run of an attempt without a result.

        Returns:
            Its id; None if MLflow does not answer.
        """
        tags = {STATUS: "executed", "step.attempt": str(attempt), **step.tags}
        group_id = self._groups.parent_run_id(step.name)
        unfinished = self._unfinished.pop((step.name, step.fingerprint), None)
        if unfinished is not None:
            run = self._continue(unfinished, tags, group_id)
        else:
            run = RunLogger(self._outbox, self._create(step.name, tags, group_id))
            run.log_params(step.params)
        self._running[step.name] = _StepRun(step.name, step.fingerprint, run, group_id)
        run.log_datasets(self._datasets(step.name))
        self._system_metrics.start()
        return self._outbox.server_id(run.run_id)

    def log_records(self, batch: LogBatch) -> None:
        """Logs what a step recorded."""
        running = self._running.get(batch.step)
        if running is not None:
            running.run.log_records(batch)

    def end_step(self, name: str, status: str = "FINISHED", manifest: Manifest | None = None) -> None:
        """Ends the run of a step: FINISHED with its manifest, FAILED or KILLED."""
        running = self._running.pop(name, None)
        if running is None:
            return
        if manifest is not None:
            running.run.log_metrics({SECONDS: manifest.seconds})
        if status == "FINISHED":
            running.run.log_datasets(self._datasets(name))
        running.run.end(status)
        self._groups.end_step(name, status, _final_metrics(manifest) if manifest is not None else {})
        if status != "FINISHED":
            self._unfinished[name, running.fingerprint] = running

    def log_cached(self, step: TrackedStep, manifest: Manifest) -> str | None:
        """Logs a committed step as a short run with its parameters and final metrics, so that runs can be compared."""
        tags = {STATUS: "cached", **step.tags}
        if manifest.run_id:
            tags["step.source_run_id"] = manifest.run_id
        run = RunLogger(self._outbox, self._create(step.name, tags, self._groups.parent_run_id(step.name)))
        if manifest.run_id:
            self._outbox.submit(run.run_id, partial(_describe_origin, manifest.run_id))
        run.log_params(step.params)
        run.log_metrics(_final_metrics(manifest))
        run.log_datasets(self._datasets(step.name))
        run.end()
        self._groups.end_step(step.name, "FINISHED", _final_metrics(manifest))
        return self._outbox.server_id(run.run_id)

    def new_problems(self) -> list[str]:
        """Returns what MLflow did not accept since the last call; each problem once."""
        return self._outbox.new_problems()

    def deliver(self) -> None:
        """Waits until MLflow has everything.

        Raises:
            TrackingError: it does not answer.
        """
        if not self._outbox.drain():
            raise TrackingError(f"MLflow at {redact(self.uri)} does not answer.", "Check the server.")

    def close(self, status: str = "FINISHED") -> None:
        """Ends all runs, and waits until MLflow has everything. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._system_metrics.stop()
        for step in list(self._running):
            self.end_step(step, "KILLED")
        self._groups.close()
        self.parent.end(status)
        self._outbox.close()

    def _create(self, name: str, tags: Mapping[str, str], parent: str) -> str:
        return self._outbox.create_run(_tags({**tags, PARENT: parent}), name)

    def _create_group(self, name: str) -> RunLogger:
        return RunLogger(self._outbox, self._create(name, {STATUS: "group"}, self.parent.run_id))

    def _continue(self, unfinished: _StepRun, tags: Mapping[str, str], parent: str) -> RunLogger:
        """Continues the run of an earlier attempt, and moves it from its pipeline run to this one."""
        run, old_parent = unfinished.run, unfinished.parent
        new_tags = {**tags, OWNER: Owner.current().to_json()}
        if old_parent != parent:
            link = f"[an earlier run](#/experiments/{self.experiment_id}/runs/{old_parent})"
            new_tags[DESCRIPTION] = f"Started in {link}, and continued here."
            self._outbox.submit(run.run_id, partial(_move, old_parent, unfinished.name))
            self._outbox.call("set_tag", run.run_id, PARENT, parent)
        self._outbox.call("update_run", run.run_id, "RUNNING")
        run.set_tags(new_tags)
        return run

    def _end_orphans(self) -> None:
        """Ends runs whose driver was killed on this machine. They would be shown as running forever."""
        for run in self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'"):
            if Owner.from_json(run.data.tags.get(OWNER, "")).is_dead():
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _find_unfinished(self) -> dict[tuple[str, str], _StepRun]:
        """Returns (step, fingerprint) -> its latest run, if that failed or was killed."""
        runs = self.client.search_runs(
            [self.experiment_id],
            f"tags.`{STATUS}` = 'executed' and attributes.status != 'RUNNING'",
            order_by=["attributes.start_time DESC"],
        )
        latest: dict[tuple[str, str], Run] = {}
        for run in runs:
            latest.setdefault((run.info.run_name, run.data.tags[FINGERPRINT]), run)
        return {key: self._step_run(run) for key, run in latest.items() if run.info.status in ("FAILED", "KILLED")}

    def _step_run(self, run: Run) -> _StepRun:
        """Returns a run of an earlier driver."""
        tags = run.data.tags
        tables = [item["path"] for item in json.loads(tags.get("mlflow.loggedArtifacts", "[]"))]
        logger = RunLogger(self._outbox, run.info.run_id, tables)
        return _StepRun(run.info.run_name, tags[FINGERPRINT], logger, tags.get(PARENT, ""))


@dataclass(frozen=True, slots=True)
class _StepRun:
    """The run of an attempt, and the run below which it is shown."""

    name: str
    fingerprint: str
    run: RunLogger
    parent: str


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags of a new run."""
    own = {OWNER: Owner.current().to_json(), "mlflow.user": user(), "mlflow.source.name": "clozeline"}
    return {str(name): str(value) for name, value in redact_values({**tags, **own}).items()}


def _describe_origin(source: str, client: MlflowClient, run_id: str) -> None:
    """Describes a cached step: a link to the run that computed it, which has its curves and figures."""
    # MLflow's first import follows `_client`, which sets its environment.
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  (MLflow takes seconds to import)

    try:
        experiment = client.get_run(source).info.experiment_id
    except MlflowException:  # it was deleted, or is on another server
        text = f"Cached. Run {source} computed it, which is not on this tracking server."
    else:
        link = f"[The run that computed it](#/experiments/{experiment}/runs/{source})"
        text = f"Cached. {link} has its curves, figures and tables."
    client.set_tag(run_id, DESCRIPTION, text)


def _move(old_parent: str, name: str, client: MlflowClient, run_id: str) -> None:
    """Notes in an earlier run of the pipeline where one of its steps continues."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  (see `_describe_origin`)

    with suppress(MlflowException):  # the earlier run may have been deleted
        client.set_tag(old_parent, f"step.continued.{name}", run_id)


def tracking_uri(store: Path) -> str:
    """Returns the default address for the runs of a store."""
    return f"sqlite:///{store.absolute()}/mlflow.db"


def _client(uri: str) -> MlflowClient:
    """Returns a client that logs warnings only. Imports MLflow, which takes one or two seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The outbox repeats calls itself.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Standard output is for results and, with --json, for events.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415  (reads the variables above when imported)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _create_database(path: Path) -> None:
    """Creates a database under another name and renames it.

    Creating the tables takes seconds, and MLflow can neither use nor repair a database with some of them.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    _client(f"sqlite:///{part}")
    part.replace(path)


def _experiment_id(client: MlflowClient, name: str, store: Path | None) -> str:
    """Returns the id of an experiment. If its store was moved, renames the experiment and creates a new one."""
    location = (store.absolute() / "mlartifacts").as_uri() if store else None
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and location and experiment.artifact_location != location:
        client.rename_experiment(experiment.experiment_id, f"{name} (store moved, run {experiment.experiment_id})")
        experiment = None
    return str(experiment.experiment_id if experiment else client.create_experiment(name, location, EXPERIMENT_KIND))


def _final_metrics(manifest: Manifest) -> dict[str, float]:
    return {**manifest.metrics, SECONDS: manifest.seconds}
