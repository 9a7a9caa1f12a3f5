"""Lines about how far `init` is, for what takes more than three seconds: reading large files and scoring patterns."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.init.interaction import Interaction
from stages.common.protocols import NullRecorder

FIRST_AFTER_S, EVERY_S = 3.0, 10.0
"""Seconds before the first line, and between lines."""


class ProgressLines:
    """Prints a line about a subject from time to time."""

    def __init__(self, terminal: Interaction, subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._subject = subject
        self._clock = clock
        self._start = clock()
        self._next = self._start + FIRST_AFTER_S

    def update(self, text: str) -> None:
        """Prints what is done, if it is time for a line."""
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_S
            self._terminal.say(self._subject, f"{text} after {now - self._start:.0f} s")


class ScoringProgress(NullRecorder):
    """Prints the progress of each pass over the labeled examples."""

    def __init__(self, lines: ProgressLines) -> None:
        self._lines = lines
        self._num_passes = 1
        self._num_done = 0

    def log_progress(self, done: int, total: int, **info: float | str) -> None:
        if done < self._num_done:
            self._num_passes += 1
        self._num_done = done
        self._lines.update(f"{info['phase']}, pass {self._num_passes}: {done:,} of {total:,} examples")
