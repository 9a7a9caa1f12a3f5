"""How fast a step goes, from what it tells of its progress: examples a second, and the seconds that are left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 20.0
"""The pace is that of the last so many seconds: the first batches of a phase are slower than those that follow."""

APART_S = 0.1
"""Two moments that are kept lie so far apart: a loop may tell of every batch."""


class Pace:
    """Gets each word of progress of one step.

    Args:
        clock: Monotonic seconds; tests hand in their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: object = None
        self._kept: deque[tuple[float, int, float]] = deque()

    def see(self, phase: object, done: int, total: int, examples: float) -> dict[str, float]:
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
