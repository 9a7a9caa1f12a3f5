"""MLflow runs of a pipeline: one parent per pipeline, one child per kind of step, one grandchild per executed step.

Cached steps are one table of the parent. The driver logs everything in batches; workers send it what they record (see
`cluster.tracking.recorder`). An outbox passes it on, so that no error of MLflow ends a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import TrackingError
from cluster.provenance import user
from cluster.redaction import redact, redact_values
from cluster.store.lease import Owner
from cluster.store.manifest import Manifest
from cluster.tracking.outbox import DELIVER_WITHIN_IF_STOPPED_S, Outbox, new_run_id
from cluster.tracking.recorder import LogBatch
from cluster.tracking.run_logger import SECONDS, DatasetsOf, RunGroups, RunLogger, no_datasets
from cluster.tracking.run_writer import FINGERPRINT, LOCAL_ID, OWNER, STATUS
from cluster.tracking.server import Destination, all_pages
from cluster.tracking.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CACHED_TABLE = "cached_steps"
COLUMNS = {"accuracy": "test/accuracy", "macro_f1": "test/macro_f1"}
"""Column of the runs -> the metric of a step that it shows. All runs have `seconds`, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedStep:
    """A step as MLflow shows it.

    Args:
        name: Name of the step and its run.
        fingerprint: Its fingerprint.
        params: What MLflow shows of its config: dotted names and plain values.
        kind: What steps of one kind have in common; default: the first part of the name.
        reason: Why it runs.
    """

    name: str
    fingerprint: str
    params: Mapping[str, Any]
    kind: str = ""
    reason: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its run."""
        return {FINGERPRINT: self.fingerprint, "step.kind": self.kind_name, "step": self.name, "reason": self.reason}

    @property
    def kind_name(self) -> str:
        """The kind, or the first part of the name."""
        return self.kind or self.name.partition("/")[0]


class NullTracker:
    """Logs nothing: for runs without MLflow."""

    def next_run(self, step: str, fingerprint: str) -> str | None:
        """See `Tracker`."""
        del step, fingerprint
        return None

    def start_step(self, step: TrackedStep, attempt: int = 1, run: str | None = None) -> None:
        """See `Tracker`."""

    def log_records(self, batch: LogBatch) -> None:
        """See `Tracker`."""

    def end_step(self, name: str, status: str = "FINISHED", manifest: Manifest | None = None) -> None:
        """See `Tracker`."""

    def log_cached(self, step: TrackedStep, manifest: Manifest) -> None:
        """See `Tracker`."""

    def new_problems(self) -> list[str]:
        """See `Tracker`."""
        return []


class Tracker:
    """All runs of one pipeline run. Use as a context manager, which ends the parent run.

    `parent` is the run of the pipeline, to which the caller may log. A step that resumes after a failed or killed
    attempt continues the run of that attempt, so that its curves are complete.

    Args:
        destination: The server.
        client: Client of the server; None if it is not needed, as records are sent later.
        run_name: Name of the parent run.
        tags: Tags of the parent run.
        datasets: See `open`.
        experiment_id: The experiment on the server, if it is known.
    """

    def __init__(
        self,
        destination: Destination,
        client: MlflowClient | None,
        run_name: str,
        *,
        tags: Mapping[str, str],
        datasets: DatasetsOf = no_datasets,
        experiment_id: str = "",
    ) -> None:
        self.uri = destination.address
        self._destination = destination
        self._client = client
        self._experiment_id = experiment_id
        self._datasets = datasets
        self._running: dict[str, _StepRun] = {}
        self._unfinished: dict[tuple[str, str], _StepRun] = {}
        """(step, fingerprint) -> its run, if an attempt of this process failed."""
        self._cached: list[dict[str, Any]] = []
        self._outbox = Outbox(destination, client)
        self.parent = RunLogger(self._outbox, self._outbox.create_run(_tags({**tags, STATUS: "pipeline"}), run_name))
        self._is_closed = False
        self._groups = RunGroups(self.parent.run, self._create_group)
        self._system_metrics = SystemMetrics(self.uri)

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
        experiment_id: str = "",
    ) -> Tracker:
        """Starts the parent run. A server that does not answer gets it later.

        Args:
            store: Folder of the store. By default its `mlflow.db` has the runs, and `mlartifacts` their files.
            experiment: Name of the experiment, which is created if it does not exist.
            run_name: Name of the parent run.
            uri: Tracking server, or `sqlite:////absolute/path.db`.
            tags: Tags of the parent run.
            datasets: Returns the data of a step. Called when the step starts and when it has a result.
            experiment_id: Id of the experiment, if no step runs and nothing is read from the server: another process
                sends the records after the run.

        Raises:
            TrackingError: the address is relative or of an unknown kind, or the database or the store cannot be used.
        """
        destination = Destination(store, experiment, uri or "")
        client = None if experiment_id else destination.open_client()
        try:
            return cls(destination, client, run_name, tags=tags or {}, datasets=datasets, experiment_id=experiment_id)
        except OSError as error:
            raise TrackingError(
                f"the records for MLflow cannot be written below {store} ({error.strerror or error}).",
                "Free some disk space, or correct the permissions.",
            ) from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, error_class: type[BaseException] | None, *_: object) -> None:
        if error_class is None:
            self.close("FINISHED")
        else:
            self.close("FAILED" if issubclass(error_class, Exception) else "KILLED")

    @property
    def experiment_id(self) -> str:
        """The experiment on the server; empty if the server has not answered yet. See `deliver`."""
        return self._experiment_id or self._outbox.experiment_id

    @property
    def client(self) -> MlflowClient:
        """Client of the server."""
        assert self._client is not None, "the records of this run are sent later"
        return self._client

    @property
    def runs_page(self) -> str:
        """The address of MLflow's table of runs; empty if the server has not answered yet."""
        return self._destination.runs_page(self.experiment_id) if self.experiment_id else ""

    @property
    def run_id(self) -> str | None:
        """The id of the parent run on the server; None if the server does not answer."""
        return self._outbox.server_id(self.parent.run)

    def find_run(self, run: str) -> str | None:
        """Returns the id on the server of the run of a manifest; None if it has none, or it was deleted.

        Call `deliver` first.
        """
        # MLflow's first import follows `client_of`, which sets its environment.
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  (MLflow takes seconds to import)

        pages = all_pages(lambda token: self.client.search_experiments(page_token=token))
        experiments = [item.experiment_id for item in pages]
        if found := self.client.search_runs(experiments, f"tags.`{LOCAL_ID}` = '{run}'", max_results=1):
            return str(found[0].info.run_id)
        try:  # older manifests have the id on the server
            info = self.client.get_run(run).info
        except MlflowException:
            return None
        return str(info.run_id) if info.lifecycle_stage == "active" else None

    def next_run(self, step: str, fingerprint: str) -> str | None:
        """Returns the id of the run that the next attempt of a step has: that of an attempt without a result, if any.

        It is the tag `outbox.id` on the server, which need not answer.
        """
        unfinished = self._unfinished.get((step, fingerprint))
        return new_run_id() if unfinished is None else unfinished.run.run

    def start_step(self, step: TrackedStep, attempt: int = 1, run: str | None = None) -> None:
        """Starts the run of a step, or continues the run of an attempt without a result.

        Args:
            step: The step.
            attempt: The number of the attempt.
            run: The id from `next_run`; None: a new one.
        """
        self._outbox.call_with_id(self.parent.run, self._system_metrics.start)
        tags = {STATUS: "executed", "step.attempt": str(attempt), **step.tags}
        running = self._unfinished.pop((step.name, step.fingerprint), None)
        if running is not None:
            running.run.reopen(_tags(tags))
        else:
            group = self._groups.parent_of(step.name)
            run = self._outbox.create_run(_tags(tags), step.name, group, run=run or "", resumes=True)
            running = _StepRun(step.fingerprint, RunLogger(self._outbox, run))
            running.run.add(params=step.params)
        self._running[step.name] = running
        running.run.log_datasets(self._datasets(step.name))

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
            running.run.add(metrics={SECONDS: manifest.seconds, **columns(manifest)})
        if status == "FINISHED":
            running.run.log_datasets(self._datasets(name))
        running.run.end(status)
        self._groups.end_step(name, status, _final_metrics(manifest) if manifest is not None else {})
        if status != "FINISHED":
            self._unfinished[name, running.fingerprint] = running

    def log_cached(self, step: TrackedStep, manifest: Manifest) -> None:
        """Logs a committed step as a row of the parent's table `cached_steps`, with the run that computed it."""
        self._groups.end_step(step.name, "FINISHED", _final_metrics(manifest))
        self._cached.append(
            {
                "step": step.name,
                "kind": step.kind_name,
                **dict.fromkeys((*COLUMNS, "seconds")),
                **columns(manifest),
                "fingerprint": step.fingerprint,
                "run": manifest.run_id or "",
            }
        )

    def new_problems(self) -> list[str]:
        """Returns what MLflow did not accept since the last call; each problem once."""
        return self._outbox.new_problems()

    @property
    def num_waiting(self) -> int:
        """The number of records that MLflow does not have yet."""
        return self._outbox.num_waiting

    def deliver(self) -> None:
        """Waits until MLflow has everything.

        Raises:
            TrackingError: it does not answer.
        """
        if not self._outbox.drain():
            raise TrackingError(f"MLflow at {redact(self.uri)} does not answer.", "Check the server.")

    def close(self, status: str = "FINISHED") -> None:
        """Ends all runs, and waits until MLflow has everything or does not answer. May be called twice.

        A run that was KILLED waits a few seconds only.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._system_metrics.stop()
        for step in list(self._running):
            self.end_step(step, "KILLED")
        self.parent.log_table(CACHED_TABLE, self._cached)
        self._groups.close()
        self.parent.end(status)
        self._outbox.close(DELIVER_WITHIN_IF_STOPPED_S if status == "KILLED" else math.inf)

    def _create_group(self, name: str) -> RunLogger:
        return RunLogger(
            self._outbox, self._outbox.create_run(_tags({STATUS: "group", "step": name}), name, self.parent.run)
        )


@dataclass(frozen=True, slots=True)
class _StepRun:
    """The run of an attempt."""

    fingerprint: str
    run: RunLogger


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags of a new run."""
    own = {OWNER: Owner.current().to_json(), "mlflow.user": user(), "mlflow.source.name": "clozeline"}
    return {str(name): str(value) for name, value in redact_values({**tags, **own}).items()}


def columns(manifest: Manifest) -> dict[str, float]:
    """Returns the metrics that have the same name in all runs, so that one column of MLflow's table shows them."""
    shown = {name: manifest.metrics[key] for name, key in COLUMNS.items() if key in manifest.metrics}
    return {**shown, "seconds": manifest.seconds}


def _final_metrics(manifest: Manifest) -> dict[str, float]:
    return {**manifest.metrics, SECONDS: manifest.seconds, **columns(manifest)}
