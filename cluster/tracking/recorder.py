"""The recorder that a stage gets under Ray: it gathers points and pictures and sends them to the driver in batches.

Workers never talk to MLflow. Its database file may lie on another machine than the worker, one writer needs no locks,
and a worker does not pay for the import.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.pace import Pace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEND_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve. `step` is the optimizer step, `when_ms` the time in milliseconds since 1970."""

    name: str
    value: float
    step: int
    when_ms: int


@dataclass(slots=True)
class Batch:
    """What a step recorded since the last batch. Figures are PNG bytes."""

    step: str
    progress: tuple[int, int, dict[str, float | str]] | None = None
    points: list[Point] = field(default_factory=list)
    figures: list[tuple[str, bytes]] = field(default_factory=list)
    tables: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.progress or self.points or self.figures or self.tables)


class BatchRecorder:
    """A `Recorder` that calls `send` with a batch now and then, from a thread of its own.

    Args:
        step: Name of the step.
        send: Takes a batch away; False if it could not, and the batch is kept for the next time.
    """

    def __init__(self, step: str, send: Callable[[Batch], bool]) -> None:
        self.last: dict[str, float] = {}
        self._step = step
        self.send = send
        self._batch = Batch(step)
        self._pace = Pace()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="recorder", daemon=True)

    def __enter__(self) -> BatchRecorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.flush()

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """One point of the curve `name`."""
        point = Point(name, float(value), int(step), time.time_ns() // 1_000_000)
        with self._lock:
            self._batch.points.append(point)
            self.last[name] = point.value

    def figure(self, name: str, figure: Figure) -> None:
        """A picture, kept as it is now."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        with self._lock:
            self._batch.figures.append((name, buffer.getvalue()))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A small table."""
        with self._lock:
            self._batch.tables.append((name, [dict(row) for row in rows]))

    def progress(self, done: int, total: int, **info: float | str) -> None:
        """How far the step is, to which the pace is added; only the last call of each half second is sent."""
        examples = info.pop("examples", done)
        pace = self._pace.see(info.get("phase"), done, total, float(examples))
        self._batch.progress = (done, total, {**info, **pace})

    def flush(self) -> None:
        """Sends what there is."""
        with self._sending:
            with self._lock:
                batch, self._batch = self._batch, Batch(self._step)
            if not batch or self.send(batch):
                return
            with self._lock:
                newer = self._batch
                batch.progress = newer.progress or batch.progress
                for mine, theirs in (
                    (batch.points, newer.points),
                    (batch.figures, newer.figures),
                    (batch.tables, newer.tables),
                ):
                    mine.extend(theirs)  # type: ignore[arg-type]
                self._batch = batch

    def _keep_sending(self) -> None:
        while not self._done.wait(SEND_EVERY_S):
            self.flush()
