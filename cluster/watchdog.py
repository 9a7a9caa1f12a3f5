"""What ends a step in its worker: it was cancelled, its lease was lost, or its driver is gone.

A driver that was killed cannot tell its workers. Left alone they would train on beside those of the next run.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cluster.errors import StoreError
from cluster.lease import BEATS_PER_TTL, Lease, Owner, Slot

LOOK_EVERY_S = 1.0
PATIENCE_S = 20.0
"""Seconds that a step gets to notice that it should end, which it does between two operations of torch."""


class Watchdog:
    """Guards one step in the main thread of a worker. Use as a context manager around it.

    Whatever ends the step raises KeyboardInterrupt there, except within `committing`: a commit is finished.

    Args:
        slot: Where the lease is.
        token: With which the driver took it.
        ttl_s: Seconds after which a lease without heartbeat counts for nothing.
    """

    def __init__(self, slot: Slot, token: str, ttl_s: float) -> None:
        self.lease_lost = False
        self._slot = slot
        self._token = token
        self._ttl_s = ttl_s
        self._here = Owner.me().space
        self._committing = False
        self._before: Any = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Within this nothing ends the step but its own errors."""
        self._committing = True
        try:
            yield
        finally:
            self._committing = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Ray's way to cancel a task is a SIGINT that is made up."""
        del number, frame
        if not self._committing:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        owner: Owner | None = None
        beat, changed = -1, time.monotonic()
        looked = float("-inf")
        while not self._done.wait(min(LOOK_EVERY_S, self._ttl_s / BEATS_PER_TTL)):
            if owner is not None and owner.is_dead():
                self._leave()
            now = time.monotonic()
            if now - looked < self._ttl_s / BEATS_PER_TTL:
                continue
            looked = now
            try:
                lease = self._slot.read()
            except (OSError, ValueError, StoreError):
                # Out of reach: that says nothing of the driver.
                changed = now
                continue
            if not self._is_mine(lease):
                self._end()
                return
            assert lease is not None
            owner = lease.owner
            if lease.beat != beat or owner.space == self._here:
                beat, changed = lease.beat, now
            elif now - changed > 2 * self._ttl_s:
                self._leave()

    def _is_mine(self, lease: Lease | None) -> bool:
        return lease is not None and lease.token == self._token

    def _end(self) -> None:
        """Another driver has the lease: ends the step, and if it does not listen, the process."""
        self.lease_lost = True
        _thread.interrupt_main()
        if not self._done.wait(PATIENCE_S):
            self._leave()

    def _leave(self) -> None:
        """The driver is gone, and nobody waits for an answer."""
        while self._committing and not self._done.wait(LOOK_EVERY_S):
            pass
        if not self._done.is_set():
            os._exit(1)
