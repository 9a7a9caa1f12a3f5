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
"""Throughput is measured over the last `WINDOW_S` seconds, because the first batches of a phase are slower."""
MIN_INTERVAL_S = 0.1
"""Minimum time between two samples: a loop may report every batch."""
SEND_EVERY_S = 0.5
START_WITHIN_S = 0.03


class ThroughputMeter:
    """Computes throughput and remaining time from the progress of a step.

    Args:
        clock: Monotonic seconds; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: object = None
        self._samples: deque[tuple[float, int, float]] = deque()
        """(time in seconds, done, examples), oldest first."""

    def update(self, phase: object, done: int, total: int, examples: float) -> dict[str, float]:
        """Returns `examples_per_s`, and `eta_s` until the phase ends; empty at the first call of a phase.

        Args:
            phase: What the step does now. Each phase has its own throughput.
            done: Progress, of `total`.
            total: Where the phase ends.
            examples: Number of examples so far.
        """
        now, samples = self._clock(), self._samples
        if phase != self._phase or (samples and done < samples[-1][1]):
            samples.clear()
            self._phase = phase
        while len(samples) > 1 and samples[1][0] < now - WINDOW_S:
            samples.popleft()
        if not samples or now - samples[-1][0] >= MIN_INTERVAL_S:
            samples.append((now, done, examples))
        first_time, first_done, first_examples = samples[0]
        if now <= first_time or done <= first_done:
            return {}
        seconds = now - first_time
        remaining_s = (total - done) * seconds / (done - first_done)
        return {
            "examples_per_s": round((examples - first_examples) / seconds, 1),
            "eta_s": round(max(0.0, remaining_s), 1),
        }


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of a metric. `step` is the optimizer step, `when_ms` the time in milliseconds since 1970."""

    name: str
    value: float
    step: int
    when_ms: int


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """An attempt that starts now: its number, the token of its lease, the address of its log, and its MLflow run.

    `node` is the id of the machine in Ray.
    """

    attempt: int
    token: str
    log: str
    run_id: str | None = None
    node: str = ""


@dataclass(slots=True)
class LogBatch:
    """Records of a step since the last batch. Figures are PNG bytes.

    `started` is set in the first batch of an attempt, and `is_last` in its last one. `token` is the one of the
    attempt's lease; the task that sends the batch fills it in.
    """

    step: str
    started: AttemptStart | None = None
    is_last: bool = False
    progress: tuple[int, int, dict[str, float | str]] | None = None
    points: list[MetricPoint] = field(default_factory=list)
    figures: list[tuple[str, bytes]] = field(default_factory=list)
    tables: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    token: str = ""

    def __bool__(self) -> bool:
        return bool(self.started or self.is_last or self.progress or self.points or self.figures or self.tables)


class BatchRecorder:
    """A `Recorder` that calls `send` with a batch periodically, from its own thread.

    `last` has the last value of every metric.

    Args:
        step: Name of the step.
        send: Sends a batch. If it returns False, the batch is kept and sent later.
        started: The attempt that starts, which is sent without delay; None: another process has sent it.
    """

    def __init__(self, step: str, send: Callable[[LogBatch], bool], started: AttemptStart | None = None) -> None:
        self.last: dict[str, float] = {}
        self.step = step
        self.send = send
        self._is_attempt = started is not None
        self._batch = LogBatch(step, started)
        self._throughput = ThroughputMeter()
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
        self._batch.is_last = self._is_attempt
        self.flush()

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Records one value of a metric."""
        point = MetricPoint(name, float(value), int(step), time.time_ns() // 1_000_000)
        with self._lock:
            self._batch.points.append(point)
            self.last[name] = point.value

    def log_figure(self, name: str, figure: Figure) -> None:
        """Records a figure as it is now."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        with self._lock:
            self._batch.figures.append((name, buffer.getvalue()))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records a small table."""
        with self._lock:
            self._batch.tables.append((name, [dict(row) for row in rows]))

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        """Records progress and throughput. Only the last call of each half second is sent."""
        examples = info.pop("examples", done)
        throughput = self._throughput.update(info.get("phase"), done, total, float(examples))
        self._batch.progress = (done, total, {**info, **throughput})

    def flush(self) -> None:
        """Sends what was recorded since the last call."""
        with self._sending:
            with self._lock:
                batch, self._batch = self._batch, LogBatch(self.step)
            if not batch or self.send(batch):
                return
            with self._lock:
                newer, self._batch = self._batch, batch
                batch.is_last |= newer.is_last
                batch.progress = newer.progress or batch.progress
                batch.points += newer.points
                batch.figures += newer.figures
                batch.tables += newer.tables

    def _keep_sending(self) -> None:
        # The start of an attempt that ends at once is sent with its other records.
        if self._is_attempt and not self._done.wait(START_WITHIN_S):
            self.flush()
        while not self._done.wait(SEND_EVERY_S):
            self.flush()
