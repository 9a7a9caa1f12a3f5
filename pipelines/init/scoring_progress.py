"""Lines about how far the language model is while `init` scores patterns, which can take minutes."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.init.interaction import Interaction
from stages.common.protocols import NullRecorder

FIRST_AFTER_S, EVERY_S = 3.0, 10.0
"""Seconds before the first line, and between lines."""


class ScoringProgress(NullRecorder):
    """Prints the progress of each pass over the labeled examples."""

    def __init__(self, terminal: Interaction, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._start = clock()
        self._next = self._start + FIRST_AFTER_S
        self._num_passes = 1
        self._num_done = 0

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        if done < self._num_done:
            self._num_passes += 1
        self._num_done = done
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_S
            seconds = f"{now - self._start:.0f} s"
            self._terminal.say(
                "scoring", f"{info['phase']}, pass {self._num_passes}: {done:,} of {total:,} examples after {seconds}"
            )
