"""Writes MLflow runs: params, metrics, figures, tables and datasets, in few calls, and groups of runs.

A group holds the steps of one kind, with mean and std of their metrics. MLflow then shows three levels: the pipeline, a
group such as `pet`, and in it one run per pattern and seed.

MLflow and pandas are imported inside functions. Their import takes seconds, and `cluster.tracking.tracker` sets the
environment that MLflow reads when it is imported.

Names and values that MLflow accepts, derived from those of steps, metrics and configs.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any

from cluster.canonical_json import canonical
from cluster.redaction import redact, redact_values
from cluster.tracking.outbox import Outbox
from cluster.tracking.recorder import LogBatch, MetricPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient


MAX_KEY, MAX_VALUE = 250, 500
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


def metric_key(name: str) -> str:
    """Returns a valid name for a parameter or metric. MLflow rejects names that are not paths, such as `task/../x`."""
    return _relative_path(_FORBIDDEN.sub("_", name)[:MAX_KEY])


def artifact_name(name: str) -> str:
    """Returns a valid file name without spaces, relative to the folder of a run."""
    return _relative_path(_FORBIDDEN.sub("_", name).replace(" ", "_").replace(":", "_").lstrip("/."))


def _relative_path(name: str) -> str:
    """Returns a name unchanged if it is a normal relative path, else without its slashes and parent folders."""
    if name and normpath(name) == name and not name.startswith(("/", "..")) and name != ".":
        return name
    return name.replace("/", "_").replace("..", "_").strip(".") or "_"


def param_value(value: Any) -> str:
    """Returns a value as text, without secrets, cut to the length that MLflow accepts."""
    text = redact(value if isinstance(value, str) else canonical(value))
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def group_name(step: str) -> str:
    """Returns the group in which MLflow shows a step: the first part of its name, or the first two of four or more.

    So the steps of a group differ in one or two things: the seed, and the pattern or the method.

    >>> [group_name(step) for step in ("report", "distill/small/0", "pet/review/0", "prompts/films/ppt/0")]
    ['', 'distill', 'pet', 'prompts/films']
    """
    parts = step.split("/")
    return "/".join(parts[: 2 if len(parts) >= 4 else 1]) if len(parts) > 1 else ""


SECONDS, COUNT = "step/seconds", "step/count"
FLUSH_EVERY_S = 2.0
MAX_DIGEST = 32
"""MLflow stores up to 36 characters of a digest; half of a sha256 identifies a file as well."""
MAX_PARAMS, MAX_METRICS = 100, 1000
"""Maximum number of each in one call."""
MAX_DESCRIPTION = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One data file.

    Args:
        name: Name that MLflow shows.
        digest: sha256 of the file in hex.
        context: What it is used for, such as train.
        address: Path or URL of the file.
        num_rows: Number of examples, if known.
    """

    name: str
    digest: str
    context: str
    address: str
    num_rows: int | None = None

    def entity(self) -> DatasetInput:
        """Returns the dataset as MLflow stores it. `mlflow.data.get_source` finds the file again."""
        from mlflow import entities  # noqa: PLC0415  (see the docstring of the module)

        scheme = self.address.partition("://")[0] if "://" in self.address else "local"
        dataset = entities.Dataset(
            name=self.name,
            digest=self.digest[:MAX_DIGEST],
            source_type=scheme,
            source=json.dumps({"uri": redact(self.address)}),
            profile=None if self.num_rows is None else json.dumps({"num_rows": self.num_rows}),
        )
        return entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", self.context)])


DatasetsOf = Callable[[str], Sequence[Dataset]]
"""Name of a step -> the data that it reads or wrote, as far as the files exist."""


def no_datasets(step: str) -> Sequence[Dataset]:
    """Returns no data, for runs that log none."""
    del step
    return ()


class RunLogger:
    """One open MLflow run.

    Args:
        outbox: Sends what is logged.
        run_id: Id of a run, as `Outbox.create_run` returns it.
        tables: Paths of the tables that it already has, if it is continued.
    """

    def __init__(self, outbox: Outbox, run_id: str, tables: Iterable[str] = ()) -> None:
        self.run_id = run_id
        self._outbox = outbox
        self._points: list[MetricPoint] = []
        self._datasets: set[Dataset] = set()
        self._tables = set(tables)
        self._flushed_at_s = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs dotted names and plain values; long values are cut."""
        self.log(params=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs metrics with the current time."""
        when_ms = time.time_ns() // 1_000_000
        self.log(points=[MetricPoint(name, value, step, when_ms) for name, value in metrics.items()])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, which MLflow can search."""
        self.log(tags=tags)

    def describe(self, markdown: str) -> None:
        """Sets the description at the top of the run's page, cut after a line to the length that MLflow accepts."""
        text = markdown
        while len(text) > MAX_DESCRIPTION:
            text = text[: max(0, text.rstrip("\n").rfind("\n"))]
        self.set_tags({"mlflow.note.content": text})

    def log_figure(self, name: str, figure: Figure) -> None:
        """Logs a figure; `name` has no extension."""
        self._outbox.call("log_figure", self.run_id, figure, f"figures/{artifact_name(name)}.png")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Logs a file unchanged."""
        self._outbox.call("log_artifact", self.run_id, str(path), folder)

    def log_text(self, name: str, text: str) -> None:
        """Logs a text file; `name` has its extension."""
        self._outbox.call("log_text", self.run_id, redact(text), name)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs rows with the same keys as a table; `name` has no extension. Replaces a table with that name."""
        if not rows:
            return
        path = f"tables/{artifact_name(name)}.json"
        columns = {key: [redact_values(row.get(key)) for row in rows] for key in rows[0]}
        if path in self._tables:  # MLflow would append the rows to the old ones
            from pandas import DataFrame  # noqa: PLC0415  (see the docstring of the module)

            self._outbox.call("log_text", self.run_id, DataFrame(columns).to_json(orient="split", index=False), path)
        else:
            self._tables.add(path)
            self._outbox.call("log_table", self.run_id, columns, path)

    def log_datasets(self, datasets: Iterable[Dataset]) -> None:
        """Logs the data that the run reads or writes; each dataset once."""
        new = [item for item in datasets if item not in self._datasets]
        if new:
            self._datasets.update(new)
            self._outbox.call("log_inputs", self.run_id, [item.entity() for item in new])

    def log_records(self, batch: LogBatch) -> None:
        """Logs what a worker sent. Metrics are written every two seconds."""
        self._points += batch.points
        for name, png in batch.figures:
            self._outbox.submit(self.run_id, partial(_upload_png, f"figures/{artifact_name(name)}.png", png))
        for name, rows in batch.tables:
            self.log_table(name, rows)
        if time.monotonic() - self._flushed_at_s > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes the metrics that are not written yet."""
        points, self._points = self._points, []
        self._flushed_at_s = time.monotonic()
        self.log(points=points)

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.flush()
        self._outbox.call("set_terminated", self.run_id, status)

    def log(
        self,
        *,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Writes everything in as few calls as MLflow's limits allow."""
        from mlflow import entities  # noqa: PLC0415  (see the docstring of the module)

        # Two names may become the same key; MLflow accepts each key once per call.
        values = {metric_key(name): param_value(value) for name, value in (params or {}).items()}
        metric_list = [entities.Metric(metric_key(item.name), item.value, item.when_ms, item.step) for item in points]
        param_list = [entities.Param(name, value) for name, value in values.items()]
        tag_list = [entities.RunTag(name, redact(value)) for name, value in (tags or {}).items()]
        while metric_list or param_list or tag_list:
            self._outbox.call(
                "log_batch", self.run_id, metric_list[:MAX_METRICS], param_list[:MAX_PARAMS], tag_list[:MAX_PARAMS]
            )
            metric_list, param_list = metric_list[MAX_METRICS:], param_list[MAX_PARAMS:]
            tag_list = tag_list[MAX_PARAMS:]


def _upload_png(name: str, png: bytes, client: MlflowClient, run_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name)
        path.write_bytes(png)
        client.log_artifact(run_id, str(path), str(Path(name).parent))


@dataclass(slots=True)
class _Group:
    run: RunLogger
    statuses: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)


class RunGroups:
    """The groups of one pipeline run. A group is created when its first step starts.

    Args:
        parent: Id of the pipeline's run.
        create: Starts a run with this name below the pipeline's run.
    """

    def __init__(self, parent: str, create: Callable[[str], RunLogger]) -> None:
        self._parent = parent
        self._create = create
        self._groups: dict[str, _Group] = {}

    def parent_run_id(self, step: str) -> str:
        """Returns the id of the run below which a step is shown."""
        name = group_name(step)
        if not name:
            return self._parent
        if name not in self._groups:
            self._groups[name] = _Group(self._create(name))
        return self._groups[name].run.run_id

    def end_step(self, step: str, status: str, metrics: Mapping[str, float]) -> None:
        """Records how a step ended, and its final metrics; empty without a result."""
        group = self._groups.get(group_name(step))
        if group is not None:
            group.statuses[step] = status
            group.metrics.pop(step, None)
            if metrics:
                group.metrics[step] = metrics

    def close(self) -> None:
        """Ends all groups with the summary of their steps and the worst status among them."""
        for group in self._groups.values():
            group.run.log_metrics(summary(list(group.metrics.values())))
            statuses = set(group.statuses.values())
            group.run.end(next((status for status in ("FAILED", "KILLED") if status in statuses), "FINISHED"))
        self._groups.clear()


def summary(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns mean and sample std (`..._std`, for two or more) of every metric that all steps have.

    Durations are summed.

    >>> summary([{"test/accuracy": 0.5, "step/seconds": 2.0}, {"test/accuracy": 0.75, "step/seconds": 3.0}])
    {'step/count': 2, 'test/accuracy': 0.625, 'test/accuracy_std': 0.1767766952966369, 'step/seconds': 5.0}
    """
    result: dict[str, float] = {COUNT: len(metrics)}
    for name in metrics[0] if metrics else ():
        values = [item[name] for item in metrics if name in item]
        if len(values) < len(metrics):
            continue
        if name == SECONDS:
            result[name] = sum(values)
            continue
        result[name] = statistics.fmean(values)
        if len(values) > 1:
            result[f"{name}_std"] = statistics.stdev(values)
    return result
