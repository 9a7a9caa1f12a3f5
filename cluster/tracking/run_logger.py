"""Writes MLflow runs: params, metrics, figures, tables and datasets, in few calls, and groups of runs.

A group holds the steps of one kind, with mean and std of their metrics. MLflow then shows three levels: the pipeline, a
group such as `pet`, and in it one run per pattern and seed.
"""

from __future__ import annotations

import io
import json
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any

from cluster.canonical_json import canonical
from cluster.redaction import redact, redact_values
from cluster.tracking.outbox import Outbox, now_ms
from cluster.tracking.recorder import LogBatch, MetricPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def record(self) -> dict[str, Any]:
        """Returns the dataset as JSON values, without secrets. `mlflow.data.get_source` finds the file again."""
        return {
            "name": self.name,
            "digest": self.digest[:MAX_DIGEST],
            "context": self.context,
            "address": redact(self.address),
            "num_rows": self.num_rows,
        }


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
        run: Id of a run, as `Outbox.create_run` returns it.
    """

    def __init__(self, outbox: Outbox, run: str) -> None:
        self.run = run
        self._outbox = outbox
        self._points: list[MetricPoint] = []
        self._params: dict[str, Any] = {}
        self._datasets: set[Dataset] = set()
        self._flushed_at_s = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs dotted names and plain values; long values are cut."""
        self._log(params=params)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Logs metrics with the current time."""
        self._log(points=_points(metrics))

    def add(self, *, params: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Logs params and metrics with the next `flush`, in one call with what is logged until then."""
        self._params.update(params or {})
        self._points += _points(metrics or {})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags, which MLflow can search."""
        self._log(tags=tags)

    def describe(self, markdown: str) -> None:
        """Sets the description at the top of the run's page, cut after a line to the length that MLflow accepts."""
        text = markdown
        while len(text) > MAX_DESCRIPTION:
            text = text[: max(0, text.rstrip("\n").rfind("\n"))]
        self.set_tags({"mlflow.note.content": text})

    def log_figure(self, name: str, figure: Figure) -> None:
        """Logs a figure; `name` has no extension."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        self.log_png(name, buffer.getvalue())

    def log_png(self, name: str, png: bytes) -> None:
        """Logs an image; `name` has no extension."""
        self._outbox.add_file(self.run, f"figures/{artifact_name(name)}.png", png)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Logs a file unchanged."""
        self._outbox.add_file(self.run, f"{folder}/{path.name}" if folder else path.name, path.read_bytes())

    def log_text(self, name: str, text: str) -> None:
        """Logs a text file; `name` has its extension."""
        self._outbox.add_file(self.run, name, redact(text).encode())

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs rows with the same keys as a table; `name` has no extension. Replaces a table with that name."""
        if rows:
            self._outbox.add_file(self.run, f"tables/{artifact_name(name)}.json", table_json(rows), kind="table")

    def log_datasets(self, datasets: Iterable[Dataset]) -> None:
        """Logs the data that the run reads or writes; each dataset once."""
        new = [item for item in datasets if item not in self._datasets]
        if new:
            self._datasets.update(new)
            self._outbox.add("datasets", self.run, datasets=[item.record() for item in new])

    def log_records(self, batch: LogBatch) -> None:
        """Logs what a worker sent. Metrics are written every two seconds."""
        self._points += batch.points
        for name, png in batch.figures:
            self.log_png(name, png)
        for name, rows in batch.tables:
            self.log_table(name, rows)
        if time.monotonic() - self._flushed_at_s > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes the metrics and params that are not written yet."""
        points, self._points = self._points, []
        params, self._params = self._params, {}
        self._flushed_at_s = time.monotonic()
        self._log(points=points, params=params)

    def reopen(self, tags: Mapping[str, str]) -> None:
        """Continues a run that has ended, and sets tags."""
        self._outbox.add("reopen", self.run, tags=list(tags.items()))

    def end(self, status: str = "FINISHED") -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.flush()
        self._outbox.add("end", self.run, status=status, at_ms=now_ms())

    def _log(
        self,
        *,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Writes everything in as few calls as MLflow's limits allow."""
        # Two names may become the same key; MLflow accepts each key once per call.
        values = {metric_key(name): param_value(value) for name, value in (params or {}).items()}
        metric_list = [(metric_key(item.name), float(item.value), item.when_ms, item.step) for item in points]
        param_list = list(values.items())
        tag_list = [(name, redact(value)) for name, value in (tags or {}).items()]
        while metric_list or param_list or tag_list:
            self._outbox.add(
                "batch",
                self.run,
                metrics=metric_list[:MAX_METRICS],
                params=param_list[:MAX_PARAMS],
                tags=tag_list[:MAX_PARAMS],
            )
            metric_list, param_list = metric_list[MAX_METRICS:], param_list[MAX_PARAMS:]
            tag_list = tag_list[MAX_PARAMS:]


def _points(metrics: Mapping[str, float]) -> list[MetricPoint]:
    at_ms = now_ms()
    return [MetricPoint(name, value, 0, at_ms) for name, value in metrics.items()]


def table_json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns rows with the same keys in the format of MLflow's tables, without secrets."""
    columns = list(rows[0])
    data = [[_cell(redact_values(row.get(name))) for name in columns] for row in rows]
    text = json.dumps({"columns": columns, "data": data}, separators=(",", ":"), ensure_ascii=False, default=str)
    return text.encode(errors="replace")


def _cell(value: Any) -> Any:
    """Returns null for a number without a form in JSON."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(slots=True)
class _Group:
    run: RunLogger | None = None
    statuses: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)


class RunGroups:
    """The groups of one pipeline run. A group is created when its first step starts, and summarizes cached ones too.

    Args:
        parent: Id of the pipeline's run.
        create: Starts a run with this name below the pipeline's run.
    """

    def __init__(self, parent: str, create: Callable[[str], RunLogger]) -> None:
        self._parent = parent
        self._create = create
        self._groups: defaultdict[str, _Group] = defaultdict(_Group)

    def parent_of(self, step: str) -> str:
        """Returns the run below which a step is shown."""
        name = group_name(step)
        if not name:
            return self._parent
        group = self._groups[name]
        group.run = group.run or self._create(name)
        return group.run.run

    def end_step(self, step: str, status: str, metrics: Mapping[str, float]) -> None:
        """Records how a step ended, and its final metrics; empty without a result."""
        group = self._groups[group_name(step)]
        group.statuses[step] = status
        group.metrics.pop(step, None)
        if metrics:
            group.metrics[step] = metrics

    def close(self) -> None:
        """Ends all groups with the summary of their steps and the worst status among them."""
        for group in self._groups.values():
            if group.run is None:
                continue
            group.run.add(metrics=summary(list(group.metrics.values())))
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
        if name in (SECONDS, "seconds"):
            result[name] = sum(values)
            continue
        result[name] = statistics.fmean(values)
        if len(values) > 1:
            result[f"{name}_std"] = statistics.stdev(values)
    return result
