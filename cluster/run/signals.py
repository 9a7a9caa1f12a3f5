"""Ctrl-C or SIGTERM in the driver: the first ends the run gracefully, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_code(number: int) -> int:
    """What shells expect of a program that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class SignalHandler:
    """Listens to Ctrl-C, and to the SIGTERM of those who stop jobs of a cluster, for the length of a `with`.

    Outside of the main thread, where Python hands out no signals, it hears nothing.

    Args:
        on_leave: Called before the process is left at once, to put the terminal in order.
    """

    def __init__(self, on_leave: Callable[[], None]) -> None:
        self.signal = 0
        """The first that came; 0: none did."""
        self._on_leave = on_leave
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalHandler:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Installs the handlers; once more after Ray's start, which puts its own in their place."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    @property
    def received(self) -> bool:
        """Whether a signal came."""
        return bool(self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self.signal:
            self.signal = number
            return
        # Nothing is tidied up: the leases of a dead process count for nothing, and a local Ray ends with its driver.
        try:
            self._on_leave()
        finally:
            os._exit(exit_code(number))
