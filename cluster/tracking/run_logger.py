"""Writes MLflow runs: params, metrics, figures, tables and datasets, in few calls, and groups of runs.

A group holds the steps of one kind, with mean and std of their metrics. MLflow then shows three levels: the pipeline, a
group such as `pet`, and in it one run per pattern and seed.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.redaction import redact, redact_values
from cluster.tracking.mlflow_names import artifact_name, group_name, metric_key, param_value
from cluster.tracking.recorder import LogBatch, MetricPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient

MAX_DIGEST = 32
"""MLflow keeps up to 36 characters of a digest; the first half of a sha256 tells files apart as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One file of data. `digest` is its sha256 in hex, `context` what it is for, such as train; `address` where it
    lies, a path or URL; `num_rows` how many examples it has, if that is known.
    """

    name: str
    digest: str
    context: str
    address: str
    num_rows: int | None = None

    def entity(self) -> DatasetInput:
        """As MLflow stores it. `mlflow.data.get_source` finds the file again."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        scheme = self.address.partition("://")[0] if "://" in self.address else "local"
        about = Entity(
            name=self.name,
            digest=self.digest[:MAX_DIGEST],
            source_type=scheme,
            source=json.dumps({"uri": redact(self.address)}),
            profile=None if self.num_rows is None else json.dumps({"num_rows": self.num_rows}),
        )
        return DatasetInput(about, [InputTag("mlflow.data.context", self.context)])


DatasetsOf = Callable[[str], Sequence[Dataset]]
"""Name of a step -> the data that it reads or has made, as far as it is there."""


def no_datasets(step: str) -> Sequence[Dataset]:
    """For those who have no data to show."""
    del step
    return ()


SECONDS = "stage/seconds"


class RunGroups:
    """The groups of one pipeline run; each is made when its first step comes.

    Args:
        parent: Id of the pipeline's run.
        create: (name of a group) -> a new run below the pipeline's.
    """

    def __init__(self, parent: str, create: Callable[[str], RunLogger]) -> None:
        self._parent = parent
        self._create = create
        self._groups: dict[str, _Group] = {}

    def parent_run_id(self, step: str) -> str:
        """Id of the run below which a step is shown."""
        name = group_name(step)
        if not name:
            return self._parent
        if name not in self._groups:
            self._groups[name] = _Group(self._create(name))
        return self._groups[name].run.run_id

    def ended(self, step: str, status: str, metrics: Mapping[str, float]) -> None:
        """Keeps how a step ended, and its last figures; none, where it has no result."""
        group = self._groups.get(group_name(step))
        if group is not None:
            group.statuses[step] = status
            group.figures.pop(step, None)
            if metrics:
                group.figures[step] = metrics

    def close(self) -> None:
        """Ends all groups with the figures of their steps, as badly as the worst of these."""
        for group in self._groups.values():
            group.run.log_metrics(summary(list(group.figures.values())))
            found = set(group.statuses.values())
            group.run.end(next((bad for bad in ("FAILED", "KILLED") if bad in found), "FINISHED"))
        self._groups.clear()


def summary(metrics: list[Mapping[str, float]]) -> dict[str, float]:
    """Mean and sample std (`..._std`, of two or more) of every figure that all steps have; of their seconds the sum.

    >>> summary([{"test/accuracy": 0.5, "stage/seconds": 2.0}, {"test/accuracy": 0.75, "stage/seconds": 3.0}])
    {'stage/steps': 2, 'test/accuracy': 0.625, 'test/accuracy_std': 0.1767766952966369, 'stage/seconds': 5.0}
    """
    found: dict[str, float] = {"stage/steps": len(metrics)}
    for name in metrics[0] if metrics else ():
        values = [item[name] for item in metrics if name in item]
        if len(values) < len(metrics):
            continue
        found[name] = sum(values) if name == SECONDS else statistics.fmean(values)
        if len(values) > 1 and name != SECONDS:
            found[f"{name}_std"] = statistics.stdev(values)
    return found


FLUSH_EVERY_S = 2.0
MAX_PARAMS, MAX_METRICS = 100, 1000
MAX_DESCRIPTION = 5000


class RunLogger:
    """One MLflow run that is being written.

    Args:
        client: Of the server, or the database, that has the run.
        run_id: The run; it exists.
        tables: Files of the tables that it has already, when it is continued.
    """

    def __init__(self, client: MlflowClient, run_id: str, tables: Iterable[str] = ()) -> None:
        self.run_id = run_id
        self._client = client
        self._points: list[MetricPoint] = []
        self._data: set[Dataset] = set()
        self._tables = set(tables)
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Dotted names and plain values; long values are cut."""
        self.log(params=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Figures of one moment."""
        when = time.time_ns() // 1_000_000
        self.log(points=[MetricPoint(name, value, step, when) for name, value in metrics.items()])

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
        self._client.log_figure(self.run_id, figure, f"figures/{artifact_name(name)}.png")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, as it is."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, name: str, text: str) -> None:
        """A text file; `name` has its extension."""
        self._client.log_text(self.run_id, redact(text), name)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the same keys; `name` has no extension. Shown as a table, in place of one of that name."""
        if not rows:
            return
        path = f"tables/{artifact_name(name)}.json"
        columns = {key: [redact_values(row.get(key)) for row in rows] for key in rows[0]}
        if path in self._tables:  # MLflow would add the rows to those that are there
            from pandas import DataFrame

            self._client.log_text(self.run_id, DataFrame(columns).to_json(orient="split", index=False), path)
        else:
            self._tables.add(path)
            self._client.log_table(self.run_id, columns, path)

    def log_datasets(self, datasets: Iterable[Dataset]) -> None:
        """The data that the run reads or makes; each is logged once, however often it is given."""
        new = [item for item in datasets if item not in self._data]
        if new:
            self._data.update(new)
            self._client.log_inputs(self.run_id, [item.entity() for item in new])

    def log_records(self, batch: LogBatch) -> None:
        """What a worker sent. Points wait until two seconds' worth are together."""
        self._points += batch.points
        for name, png in batch.figures:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"{artifact_name(Path(name).name)}.png")
                path.write_bytes(png)
                parent = Path("figures", artifact_name(name)).parent
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
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """As few calls as MLflow's limits allow; none for nothing."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(metric_key(item.name), item.value, item.when_ms, item.step) for item in points]
        values = {
            metric_key(name): param_value(value) for name, value in (params or {}).items()
        }  # two odd names may become one
        pairs = [Param(name, value) for name, value in values.items()]
        marks = [RunTag(name, redact(value)) for name, value in (tags or {}).items()]
        while metrics or pairs or marks:
            self._client.log_batch(self.run_id, metrics[:MAX_METRICS], pairs[:MAX_PARAMS], marks[:MAX_PARAMS])
            metrics, pairs, marks = metrics[MAX_METRICS:], pairs[MAX_PARAMS:], marks[MAX_PARAMS:]


@dataclass(slots=True)
class _Group:
    run: RunLogger
    statuses: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Mapping[str, float]] = field(default_factory=dict)
