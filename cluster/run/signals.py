"""Handlers of SIGINT and SIGTERM. In the driver the first signal ends the run gracefully, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_code(number: int) -> int:
    """Returns the exit code that shells expect after a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class TemporaryHandlers:
    """Handlers of SIGINT and SIGTERM that can be installed, installed again and removed.

    Outside the main thread nothing is installed, because Python handles signals there only.

    Args:
        handle: The handler; see `signal.signal`.
    """

    def __init__(self, handle: Callable[[int, FrameType | None], None]) -> None:
        self._handle = handle
        self._old_handlers: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Installs the handlers. Called again after Ray replaced them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            old_handler = signal.signal(number, self._handle)
            self._old_handlers.setdefault(number, old_handler)

    def remove(self) -> None:
        """Restores the handlers from before the first `install`."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)


class SignalHandler:
    """Receives Ctrl-C, and the SIGTERM of job schedulers, inside a `with` block in the main thread.

    Args:
        on_exit: Called before the process ends at once, to restore the terminal.
    """

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self.signal = 0
        """Number of the first signal; 0 before one was received."""
        self._on_exit = on_exit
        self._handlers = TemporaryHandlers(self._handle)

    def __enter__(self) -> SignalHandler:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.remove()

    def listen(self) -> None:
        """Installs the handlers. Called again after Ray's start replaced them."""
        self._handlers.install()

    @property
    def received(self) -> bool:
        """True after a signal."""
        return bool(self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self.signal:
            self.signal = number
            return
        # Cleaning up is not needed: leases of a dead process are expired, and a local Ray ends with its driver.
        try:
            self._on_exit()
        finally:
            os._exit(exit_code(number))
