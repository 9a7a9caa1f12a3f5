"""MLflow runs of a pipeline: one parent per pipeline, one child per kind of step, one grandchild per step.

The driver logs everything in batches; workers send it what they record (see `cluster.tracking.recorder`).
"""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import TrackingError
from cluster.redaction import redact_values
from cluster.store.lease import Owner, locked
from cluster.store.manifest import Manifest
from cluster.tracking.mlflow_names import kind_tag
from cluster.tracking.recorder import LogBatch
from cluster.tracking.run_logger import SECONDS, DatasetsOf, RunGroups, RunLogger, no_datasets
from cluster.tracking.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

KIND = "mlflow.experimentKind"
"""Says to MLflow's pages that these runs train models; else they guess, and may list them as evaluations of chats."""
OWNER, PARENT = "stage.owner", "mlflow.parentRunId"


class Tracker:
    """All runs of one pipeline run. Use as a context manager: the parent ends with it.

    `parent` is the pipeline's own run, for whatever the caller wants to log there. A step that goes on where an attempt
    failed or was killed continues the run of that attempt, so that its curves are whole.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        uri: str,
        name: str,
        tags: Mapping[str, str],
        datasets: DatasetsOf = no_datasets,
    ) -> None:
        self.uri = uri
        self._datasets = datasets
        self._client = client
        self._experiment = experiment
        self._steps: dict[str, RunLogger] = {}
        self._end_orphans()
        self._unfinished = self._find_unfinished()
        self.parent = RunLogger(client, self._create(name, {**tags, "stage.status": "pipeline"}))
        self._groups = RunGroups(self.parent.run_id, self._create_group)
        self._gauges = SystemMetrics(self.parent.run_id, uri)

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
            store: The store's folder; by default the runs are kept in `mlflow.db` there, and files in `mlartifacts`.
            experiment: Name of the experiment; made if it is new.
            run_name: Name of the parent run.
            uri: Tracking server, or `sqlite:////absolute/path.db`.
            tags: Tags of the parent run.
            datasets: Says what data a step reads; asked when a step starts and when its result is there.

        Raises:
            TrackingError: the address is a relative one, or MLflow refuses it.
        """
        uri = uri or tracking_uri(store)
        if uri.startswith("sqlite:") and not uri.startswith("sqlite:////"):
            raise TrackingError(
                f"the tracking address {uri} is relative, so that each process would have its own.",
                "Give it from the root: sqlite:////data/mlflow.db, with four slashes.",
            )
        database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None
        folder = database.parent if database else store
        try:
            # Two drivers that both find no database would both try to make its tables.
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if database is not None and not database.exists():
                    _make_database(database)
                client = _client(uri)
                experiment_id = _experiment(client, experiment, store if uri.startswith("sqlite:") else None)
            return cls(client, experiment_id, uri, run_name, tags or {}, datasets)
        except Exception as error:
            raise TrackingError(
                f"MLflow at {uri} cannot be used: {error}.", "Check the address and the server."
            ) from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    @property
    def client(self) -> MlflowClient:
        """Of the server, or the database, that has the runs."""
        return self._client

    def start_step(self, step: str, fingerprint: str, params: Mapping[str, Any], attempt: int = 1) -> str:
        """Starts the run of a step, or continues that of an attempt without a result. Returns its id."""
        tags = {"stage.status": "executed", "stage.fingerprint": fingerprint, "stage.attempt": str(attempt)}
        above = self._groups.parent_run_id(step)
        before = self._unfinished.pop((step, fingerprint), None)
        if before is not None:
            run = self._continue(before, tags, above)
        else:
            run = RunLogger(self._client, self._create(step, {**tags, **kind_tag(step)}, above))
            run.log_params(params)
        self._steps[step] = run
        run.log_datasets(self._datasets(step))
        self._gauges.start()
        return run.run_id

    def log_records(self, batch: LogBatch) -> None:
        """Logs what a step recorded."""
        run = self._steps.get(batch.step)
        if run is not None:
            run.log_records(batch)

    def end_step(self, step: str, status: str = "FINISHED", manifest: Manifest | None = None) -> None:
        """Ends the run of a step; FINISHED with its manifest, if it has one."""
        run = self._steps.pop(step, None)
        if run is None:
            return
        figures = _final_metrics(manifest) if manifest is not None else {}
        if manifest is not None:
            run.log_metrics({SECONDS: manifest.seconds})
        if status == "FINISHED":
            run.log_datasets(self._datasets(step))
        run.end(status)
        self._groups.ended(step, status, figures)
        if status != "FINISHED":
            left = self._client.get_run(run.run_id)
            self._unfinished[step, left.data.tags["stage.fingerprint"]] = left

    def cached_step(self, step: str, manifest: Manifest, params: Mapping[str, Any]) -> str:
        """Shows a committed step as a short run, with its parameters and last figures, so that runs compare."""
        tags = {"stage.status": "cached", "stage.fingerprint": manifest.fingerprint, **kind_tag(step)}
        if manifest.run_id:
            tags["stage.source_run_id"] = manifest.run_id
            tags["mlflow.note.content"] = self._origin(manifest.run_id)
        run = RunLogger(self._client, self._create(step, tags, self._groups.parent_run_id(step)))
        run.log_params(params)
        run.log_metrics(_final_metrics(manifest))
        run.log_datasets(self._datasets(step))
        run.end()
        self._groups.ended(step, "FINISHED", _final_metrics(manifest))
        return run.run_id

    def close(self, status: str = "FINISHED") -> None:
        """Ends whatever still runs. May be called twice."""
        self._gauges.stop()
        for step in list(self._steps):
            self.end_step(step, "KILLED")
        self._groups.close()
        if self._client.get_run(self.parent.run_id).info.status == "RUNNING":
            self.parent.end(status)

    def _create(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        about = {**tags, OWNER: _owner(), "mlflow.user": _user(), "mlflow.source.name": "clozeline"}
        if parent:
            about[PARENT] = parent
        return str(self._client.create_run(self._experiment, tags=redact_values(about), run_name=name).info.run_id)

    def _create_group(self, name: str) -> RunLogger:
        return RunLogger(self._client, self._create(name, {"stage.status": "group"}, self.parent.run_id))

    def _continue(self, before: Run, tags: Mapping[str, str], above: str) -> RunLogger:
        """Goes on with the run of an earlier attempt, and takes it from the pipeline run where that was."""
        from mlflow.exceptions import MlflowException

        run_id, old = before.info.run_id, before.data.tags.get(PARENT)
        about = {**tags, OWNER: _owner(), PARENT: above}
        if old and old != above:
            about["mlflow.note.content"] = (
                f"Begun in [an earlier run](#/experiments/{before.info.experiment_id}/runs/{old}), and continued here."
            )
            with suppress(MlflowException):  # it may have been deleted
                self._client.set_tag(old, f"stage.continued.{before.info.run_name}", run_id)
        self._client.update_run(run_id, "RUNNING")
        tables = [item["path"] for item in json.loads(before.data.tags.get("mlflow.loggedArtifacts", "[]"))]
        run = RunLogger(self._client, run_id, tables)
        run.set_tags(about)
        return run

    def _origin(self, run_id: str) -> str:
        """The description of a cached step: a link to the run that made it, where its curves and pictures are."""
        from mlflow.exceptions import MlflowException

        try:
            experiment = self._client.get_run(run_id).info.experiment_id
        except MlflowException:  # it was deleted, or another server has it
            return f"Taken from the store. The run {run_id} made it, which is not on this tracking server."
        return (
            f"Taken from the store. [The run that made it](#/experiments/{experiment}/runs/{run_id}) has its curves, "
            "pictures and tables."
        )

    def _end_orphans(self) -> None:
        """Ends runs whose driver was killed on this machine, which else would look alive for ever."""
        for run in self._client.search_runs([self._experiment], "attributes.status = 'RUNNING'"):
            about = run.data.tags.get(OWNER)
            if about and Owner(**json.loads(about)).is_dead():
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _find_unfinished(self) -> dict[tuple[str, str], Run]:
        """(step, fingerprint) -> the latest run of it, where that failed or was killed."""
        runs = self._client.search_runs(
            [self._experiment],
            "tags.`stage.status` = 'executed' and attributes.status != 'RUNNING'",
            order_by=["attributes.start_time DESC"],
        )
        latest: dict[tuple[str, str], Run] = {}
        for run in runs:
            latest.setdefault((run.info.run_name, run.data.tags["stage.fingerprint"]), run)
        return {key: run for key, run in latest.items() if run.info.status in ("FAILED", "KILLED")}


def tracking_uri(store: Path) -> str:
    """Where the runs of a store are kept by default."""
    return f"sqlite:///{store.absolute()}/mlflow.db"


def _client(uri: str) -> MlflowClient:
    """A client without chatter. The import takes a second or two, so it is made when first needed."""

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _make_database(path: Path) -> None:
    """Making the tables takes seconds, and half of them can neither be used nor mended: so under another name first."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    _client(f"sqlite:///{part}")
    part.replace(path)


def _experiment(client: MlflowClient, name: str, store: Path | None) -> str:
    """Id of the experiment. One whose files lie in a store that was moved since is renamed, and a new one begun."""
    location = (store.absolute() / "mlartifacts").as_uri() if store else None
    known = client.get_experiment_by_name(name)
    if known is not None and location and known.artifact_location != location:
        client.rename_experiment(known.experiment_id, f"{name} (store moved, run {known.experiment_id})")
        known = None
    return str(
        known.experiment_id if known else client.create_experiment(name, location, {KIND: "custom_model_development"})
    )


def _owner() -> str:

    return json.dumps(asdict(Owner.current()))


def _user() -> str:

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _final_metrics(manifest: Manifest) -> dict[str, float]:
    return {**manifest.metrics, SECONDS: manifest.seconds}
