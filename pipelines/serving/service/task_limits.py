"""Limits of the texts of each task: how many per second, and how many at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.serving.served_tasks import TaskLimit
from pipelines.serving.service.batcher import Metrics
from pipelines.serving.service.request_parsing import RequestError

BUSY_RETRY_S = 1
"""Seconds in the Retry-After header of a task with too many texts at the same time."""


@dataclass(slots=True)
class _Use:
    """Texts of a task: how many may still come now, when that was computed, and how many have no prediction yet."""

    allowed: float
    at: float
    num_waiting: int = 0


class TaskLimits:
    """Admits or rejects the texts of a request. For one thread."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._limits: Mapping[str, TaskLimit] = {}
        self._uses: dict[str, _Use] = {}

    def set(self, limits: Mapping[str, TaskLimit]) -> None:
        """Replaces the limits: task -> limit. A task whose limits stay keeps its count."""
        for task, limit in limits.items():
            if self._limits.get(task, TaskLimit()).texts_per_second != limit.texts_per_second and task in self._uses:
                self._uses[task].allowed = limit.texts_per_second or 0.0
        self._limits = limits
        self._uses = {task: use for task, use in self._uses.items() if task in limits}

    @contextmanager
    def admitted(self, counts: Mapping[str, int]) -> Iterator[None]:
        """Counts texts as waiting inside a `with` block.

        Args:
            counts: Task -> number of texts of a request.

        Raises:
            RequestError: 429 if a task has too many texts; then none of the request is counted.
        """
        uses = {task: self._use(task) for task in counts}
        for task, count in counts.items():
            self._check(task, count, uses[task])
        for task, count in counts.items():
            uses[task].allowed -= count
            uses[task].num_waiting += count
        try:
            yield
        finally:
            for task, count in counts.items():
                uses[task].num_waiting -= count

    def _use(self, task: str) -> _Use:
        """Returns the use of a task with what it may send by now: at most the texts of one second."""
        now, rate = self._clock(), self._limits.get(task, TaskLimit()).texts_per_second or 0.0
        use = self._uses.setdefault(task, _Use(max(rate, 1.0), now))
        use.allowed = min(max(rate, 1.0), use.allowed + (now - use.at) * rate)
        use.at = now
        return use

    def _check(self, task: str, count: int, use: _Use) -> None:
        limit = self._limits.get(task, TaskLimit())
        if limit.max_waiting is not None and use.num_waiting + count > limit.max_waiting:
            self._metrics.limited_texts.labels(task).inc(count)
            raise RequestError(
                429,
                f"the task {task} has {use.num_waiting} texts waiting, and the maximum is {limit.max_waiting}.",
                "Retry later, with fewer texts at a time.",
                "task",
                retry_after_s=BUSY_RETRY_S,
            )
        rate = limit.texts_per_second
        # A request of more texts than those of a second is admitted when the second is full, and the next ones wait.
        needed = 0.0 if rate is None else min(count, max(rate, 1.0))
        if rate is not None and use.allowed < needed:
            self._metrics.limited_texts.labels(task).inc(count)
            raise RequestError(
                429,
                f"the task {task} has more than {rate:g} texts per second.",
                "Retry later.",
                "task",
                retry_after_s=math.ceil((needed - use.allowed) / rate),
            )
