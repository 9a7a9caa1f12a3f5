"""MLflow runs of a pipeline: one parent per pipeline, one child per kind of step, one grandchild per step.

The driver logs everything in batches; workers send it what they record (see `cluster.tracking.recorder`).

Logs how busy the driver's machine is during a run, as MLflow's system metrics.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import TrackingError
from cluster.redaction import redact_values
from cluster.store.lease import Owner, locked
from cluster.store.manifest import Manifest
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
        self._experiment_id = experiment_id
        self._running: dict[str, RunLogger] = {}
        self._end_orphans()
        self._unfinished = self._find_unfinished()
        self.parent = RunLogger(client, self._create(run_name, {**tags, STATUS: "pipeline"}))
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
        """Starts the run of a step, or continues the run of an attempt without a result. Returns its id."""
        tags = {STATUS: "executed", "step.attempt": str(attempt), **step.tags}
        group_id = self._groups.parent_run_id(step.name)
        unfinished = self._unfinished.pop((step.name, step.fingerprint), None)
        if unfinished is not None:
            run = self._continue(unfinished, tags, group_id)
        else:
            run = RunLogger(self.client, self._create(step.name, tags, group_id))
            run.log_params(step.params)
        self._running[step.name] = run
        run.log_datasets(self._datasets(step.name))
        self._system_metrics.start()
        return run.run_id

    def log_records(self, batch: LogBatch) -> None:
        """Logs what a step recorded."""
        run = self._running.get(batch.step)
        if run is not None:
            run.log_records(batch)

    def end_step(self, name: str, status: str = "FINISHED", manifest: Manifest | None = None) -> None:
        """Ends the run of a step: FINISHED with its manifest, FAILED or KILLED."""
        run = self._running.pop(name, None)
        if run is None:
            return
        if manifest is not None:
            run.log_metrics({SECONDS: manifest.seconds})
        if status == "FINISHED":
            run.log_datasets(self._datasets(name))
        run.end(status)
        self._groups.end_step(name, status, _final_metrics(manifest) if manifest is not None else {})
        if status != "FINISHED":
            unfinished = self.client.get_run(run.run_id)
            self._unfinished[name, unfinished.data.tags[FINGERPRINT]] = unfinished

    def log_cached(self, step: TrackedStep, manifest: Manifest) -> str | None:
        """Logs a committed step as a short run with its parameters and final metrics, so that runs can be compared."""
        tags = {STATUS: "cached", **step.tags}
        if manifest.run_id:
            tags |= {"step.source_run_id": manifest.run_id, DESCRIPTION: self._origin(manifest.run_id)}
        run = RunLogger(self.client, self._create(step.name, tags, self._groups.parent_run_id(step.name)))
        run.log_params(step.params)
        run.log_metrics(_final_metrics(manifest))
        run.log_datasets(self._datasets(step.name))
        run.end()
        self._groups.end_step(step.name, "FINISHED", _final_metrics(manifest))
        return run.run_id

    def close(self, status: str = "FINISHED") -> None:
        """Ends all runs. May be called twice."""
        self._system_metrics.stop()
        for step in list(self._running):
            self.end_step(step, "KILLED")
        self._groups.close()
        if self.client.get_run(self.parent.run_id).info.status == "RUNNING":
            self.parent.end(status)

    def _create(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        all_tags = {**tags, OWNER: Owner.current().to_json(), "mlflow.user": _user(), "mlflow.source.name": "clozeline"}
        if parent:
            all_tags[PARENT] = parent
        run = self.client.create_run(self._experiment_id, tags=redact_values(all_tags), run_name=name)
        return str(run.info.run_id)

    def _create_group(self, name: str) -> RunLogger:
        return RunLogger(self.client, self._create(name, {STATUS: "group"}, self.parent.run_id))

    def _continue(self, unfinished: Run, tags: Mapping[str, str], parent: str) -> RunLogger:
        """Continues the run of an earlier attempt, and moves it from its pipeline run to this one."""
        # MLflow's first import follows `_client`, which sets its environment.
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  (MLflow takes seconds to import)

        run_id, old_parent = unfinished.info.run_id, unfinished.data.tags.get(PARENT)
        new_tags = {**tags, OWNER: Owner.current().to_json(), PARENT: parent}
        if old_parent and old_parent != parent:
            link = f"[an earlier run](#/experiments/{unfinished.info.experiment_id}/runs/{old_parent})"
            new_tags[DESCRIPTION] = f"Started in {link}, and continued here."
            with suppress(MlflowException):  # the earlier run may have been deleted
                self.client.set_tag(old_parent, f"step.continued.{unfinished.info.run_name}", run_id)
        self.client.update_run(run_id, "RUNNING")
        tables = [item["path"] for item in json.loads(unfinished.data.tags.get("mlflow.loggedArtifacts", "[]"))]
        run = RunLogger(self.client, run_id, tables)
        run.set_tags(new_tags)
        return run

    def _origin(self, run_id: str) -> str:
        """Describes a cached step: a link to the run that computed it, which has its curves and figures."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  (see `_continue`)

        try:
            experiment = self.client.get_run(run_id).info.experiment_id
        except MlflowException:  # it was deleted, or is on another server
            return f"Cached. Run {run_id} computed it, which is not on this tracking server."
        return (
            f"Cached. [The run that computed it](#/experiments/{experiment}/runs/{run_id}) has its curves, figures "
            "and tables."
        )

    def _end_orphans(self) -> None:
        """Ends runs whose driver was killed on this machine. They would be shown as running forever."""
        for run in self.client.search_runs([self._experiment_id], "attributes.status = 'RUNNING'"):
            if Owner.from_json(run.data.tags.get(OWNER, "")).is_dead():
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _find_unfinished(self) -> dict[tuple[str, str], Run]:
        """Returns (step, fingerprint) -> its latest run, if that failed or was killed."""
        runs = self.client.search_runs(
            [self._experiment_id],
            f"tags.`{STATUS}` = 'executed' and attributes.status != 'RUNNING'",
            order_by=["attributes.start_time DESC"],
        )
        latest: dict[tuple[str, str], Run] = {}
        for run in runs:
            latest.setdefault((run.info.run_name, run.data.tags[FINGERPRINT]), run)
        return {key: run for key, run in latest.items() if run.info.status in ("FAILED", "KILLED")}


def tracking_uri(store: Path) -> str:
    """Returns the default address for the runs of a store."""
    return f"sqlite:///{store.absolute()}/mlflow.db"


def _client(uri: str) -> MlflowClient:
    """Returns a client that logs warnings only. Imports MLflow, which takes one or two seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415  (reads the variable above when imported)

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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _final_metrics(manifest: Manifest) -> dict[str, float]:
    return {**manifest.metrics, SECONDS: manifest.seconds}
