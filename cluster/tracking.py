"""MLflow runs of a pipeline: a parent for the pipeline, a child for each step.

Everything is logged by the driver, in batches: workers send what they recorded (see `cluster.recorder`).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.data_inputs import Dataset, DatasetsOf, none_of
from cluster.errors import TrackingError
from cluster.gauges import Gauges
from cluster.lease import Owner, locked
from cluster.masking import masked, masked_values
from cluster.mlflow_names import file_of, key_of, kind_of, text_of
from cluster.recorder import Batch, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient

    from cluster.manifest import Manifest

FLUSH_EVERY_S = 2.0
KIND = "mlflow.experimentKind"
"""Says to MLflow's pages that these runs train models; else they guess, and may list them as evaluations of chats."""
MAX_PARAMS, MAX_METRICS = 100, 1000
MAX_DESCRIPTION = 5000


class RunLog:
    """One MLflow run that is being written."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._points: list[Point] = []
        self._data: set[Dataset] = set()
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Dotted names and plain values; long values are cut."""
        self.log(params=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Figures of one moment."""
        when = time.time_ns() // 1_000_000
        self.log(points=[Point(name, value, step, when) for name, value in metrics.items()])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags, for searching."""
        self.log(tags=tags)

    def describe(self, markdown: str) -> None:
        """The description at the top of the run's page; whole lines, as many as MLflow keeps."""
        kept = markdown
        while len(kept) > MAX_DESCRIPTION:
            kept = kept[: max(0, kept.rstrip("\n").rfind("\n"))]
        self.log(tags={"mlflow.note.content": kept})

    def log_figure(self, name: str, figure: Figure) -> None:
        """A picture; `name` has no extension."""
        self._client.log_figure(self.run_id, figure, f"figures/{file_of(name)}.png")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, as it is."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, name: str, text: str) -> None:
        """A text file; `name` has its extension."""
        self._client.log_text(self.run_id, masked(text), name)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the same keys; `name` has no extension. Shown as a table."""
        if rows:
            columns = {key: [masked_values(row.get(key)) for row in rows] for key in rows[0]}
            self._client.log_table(self.run_id, columns, f"tables/{file_of(name)}.json")

    def log_datasets(self, datasets: Iterable[Dataset]) -> None:
        """The data that the run reads or makes; each is logged once, however often it is given."""
        new = [item for item in datasets if item not in self._data]
        if new:
            self._data.update(new)
            self._client.log_inputs(self.run_id, [item.entity() for item in new])

    def take(self, batch: Batch) -> None:
        """What a worker sent. Points wait until two seconds' worth are together."""
        self._points += batch.points
        for name, png in batch.figures:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"{file_of(Path(name).name)}.png")
                path.write_bytes(png)
                parent = Path("figures", file_of(name)).parent
                self.log_artifact(path, str(parent))
        for name, rows in batch.tables:
            self.log_table(name, rows)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes the points that wait."""
        points, self._points = self._points, []
        self._flushed = time.monotonic()
        self.log(points=points)

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run: FINISHED, FAILED or KILLED."""
        self.flush()
        self._client.set_terminated(self.run_id, status)

    def log(
        self,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """As few calls as MLflow's limits allow; none for nothing."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key_of(item.name), item.value, item.when_ms, item.step) for item in points]
        values = {
            key_of(name): text_of(value) for name, value in (params or {}).items()
        }  # two odd names may become one
        pairs = [Param(name, value) for name, value in values.items()]
        marks = [RunTag(name, masked(value)) for name, value in (tags or {}).items()]
        while metrics or pairs or marks:
            self._client.log_batch(self.run_id, metrics[:MAX_METRICS], pairs[:MAX_PARAMS], marks[:MAX_PARAMS])
            metrics, pairs, marks = metrics[MAX_METRICS:], pairs[MAX_PARAMS:], marks[MAX_PARAMS:]


class Tracker:
    """All runs of one pipeline run. Use as a context manager: the parent ends with it.

    `parent` is the pipeline's own run, for whatever the caller wants to log there.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        uri: str,
        name: str,
        tags: Mapping[str, str],
        datasets: DatasetsOf = none_of,
    ) -> None:
        self.uri = uri
        self._datasets = datasets
        self._client = client
        self._experiment = experiment
        self._steps: dict[str, RunLog] = {}
        self._end_orphans()
        self.parent = RunLog(client, self._create(name, {**tags, "stage.status": "pipeline"}))
        self._gauges = Gauges(self.parent.run_id, uri)

    @classmethod
    def open(
        cls,
        store: Path,
        experiment: str,
        run_name: str,
        *,
        uri: str | None = None,
        tags: Mapping[str, str] | None = None,
        datasets: DatasetsOf = none_of,
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
        """Starts the child run of a step and returns its id."""
        tags = {"stage.status": "executed", "stage.fingerprint": fingerprint, "stage.attempt": str(attempt)}
        run = RunLog(self._client, self._create(step, {**tags, **kind_of(step)}, self.parent.run_id))
        self._steps[step] = run
        run.log_params(params)
        run.log_datasets(self._datasets(step))
        self._gauges.start()
        return run.run_id

    def take(self, batch: Batch) -> None:
        """Logs what a step recorded."""
        run = self._steps.get(batch.step)
        if run is not None:
            run.take(batch)

    def end_step(self, step: str, status: str = "FINISHED", metrics: Mapping[str, float] | None = None) -> None:
        """Ends the child run of a step."""
        run = self._steps.pop(step, None)
        if run is not None:
            run.log_metrics(metrics or {})
            if status == "FINISHED":
                run.log_datasets(self._datasets(step))
            run.end(status)

    def cached_step(self, step: str, manifest: Manifest, params: Mapping[str, Any]) -> str:
        """Shows a committed step as a short child run, with its parameters and last figures, so that runs compare."""
        tags = {"stage.status": "cached", "stage.fingerprint": manifest.fingerprint, **kind_of(step)}
        if manifest.run_id:
            tags["stage.source_run_id"] = manifest.run_id
            tags["mlflow.note.content"] = self._origin(manifest.run_id)
        run = RunLog(self._client, self._create(step, tags, self.parent.run_id))
        when = time.time_ns() // 1_000_000
        figures = {**manifest.metrics, "stage/seconds": manifest.seconds}
        run.log(points=[Point(name, value, 0, when) for name, value in figures.items()], params=params)
        run.log_datasets(self._datasets(step))
        run.end()
        return run.run_id

    def close(self, status: str = "FINISHED") -> None:
        """Ends whatever still runs. May be called twice."""
        self._gauges.stop()
        for step in list(self._steps):
            self.end_step(step, "KILLED")
        if self._client.get_run(self.parent.run_id).info.status == "RUNNING":
            self.parent.end(status)

    def _create(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        about = {**tags, "stage.owner": _owner(), "mlflow.user": _user(), "mlflow.source.name": "clozeline"}
        if parent:
            about["mlflow.parentRunId"] = parent
        return str(self._client.create_run(self._experiment, tags=masked_values(about), run_name=name).info.run_id)

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
            about = run.data.tags.get("stage.owner")
            if about and Owner(**json.loads(about)).is_dead():
                self._client.set_terminated(run.info.run_id, "KILLED")


def tracking_uri(store: Path) -> str:
    """Where the runs of a store are kept by default."""
    return f"sqlite:///{store.absolute()}/mlflow.db"


def _client(uri: str) -> MlflowClient:
    """A client without chatter. The import takes a second or two, so it is made when first needed."""
    import logging

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
    from dataclasses import asdict

    return json.dumps(asdict(Owner.me()))


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def params_of(components: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The config among a key's components, as parameters: `config.loop.steps` becomes `loop.steps`."""
    return {name.removeprefix("config."): value for name, value in components if name.startswith("config.")}
