"""The recorder of a stage under Ray: collects metrics, figures and progress, and sends them to the driver in batches.

Progress gets the throughput and the remaining time of its phase. Workers never call MLflow: its database file may be on
another machine, one writer needs no locks, and a worker does not pay for the import.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW_S = 20.0
"""The pace is that of the last so many seconds: the first batches of a phase are slower than those that follow."""
APART_S = 0.1
"""Two moments that are kept lie so far apart: a loop may tell of every batch."""


class ThroughputMeter:
    """Gets each word of progress of one step.

    Args:
        clock: Monotonic seconds; tests hand in their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: object = None
        self._kept: deque[tuple[float, int, float]] = deque()

    def update(self, phase: object, done: int, total: int, examples: float) -> dict[str, float]:
        """`examples_per_s`, and `eta_s` until the phase ends; nothing at the first word of a phase.

        Args:
            phase: What the step does now; another phase has another pace.
            done: How far it is, of `total`.
            total: Where it ends.
            examples: Examples so far.
        """
        now = self._clock()
        if phase != self._phase or (self._kept and done < self._kept[-1][1]):
            self._kept.clear()
            self._phase = phase
        while len(self._kept) > 1 and self._kept[1][0] < now - WINDOW_S:
            self._kept.popleft()
        if not self._kept or now - self._kept[-1][0] >= APART_S:
            self._kept.append((now, done, examples))
        since, done_then, examples_then = self._kept[0]
        if now <= since or done <= done_then:
            return {}
        passed = now - since
        left = (total - done) * passed / (done - done_then)
        return {"examples_per_s": round((examples - examples_then) / passed, 1), "eta_s": round(max(0.0, left), 1)}


SEND_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One point of a curve. `step` is the optimizer step, `when_ms` the time in milliseconds since 1970."""

    name: str
    value: float
    step: int
    when_ms: int


@dataclass(slots=True)
class LogBatch:
    """What a step recorded since the last batch. Figures are PNG bytes."""

    step: str
    progress: tuple[int, int, dict[str, float | str]] | None = None
    points: list[MetricPoint] = field(default_factory=list)
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

    def __init__(self, step: str, send: Callable[[LogBatch], bool]) -> None:
        self.last: dict[str, float] = {}
        self._step = step
        self.send = send
        self._batch = LogBatch(step)
        self._pace = ThroughputMeter()
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

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """One point of the curve `name`."""
        point = MetricPoint(name, float(value), int(step), time.time_ns() // 1_000_000)
        with self._lock:
            self._batch.points.append(point)
            self.last[name] = point.value

    def log_figure(self, name: str, figure: Figure) -> None:
        """A picture, kept as it is now."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        with self._lock:
            self._batch.figures.append((name, buffer.getvalue()))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A small table."""
        with self._lock:
            self._batch.tables.append((name, [dict(row) for row in rows]))

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        """How far the step is, to which the pace is added; only the last call of each half second is sent."""
        examples = info.pop("examples", done)
        pace = self._pace.update(info.get("phase"), done, total, float(examples))
        self._batch.progress = (done, total, {**info, **pace})

    def flush(self) -> None:
        """Sends what there is."""
        with self._sending:
            with self._lock:
                batch, self._batch = self._batch, LogBatch(self._step)
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
