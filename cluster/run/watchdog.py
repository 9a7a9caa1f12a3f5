"""Ends a step in its worker: it was canceled, its machine is preempted, its lease was lost, or its driver died.

A killed driver cannot stop its workers. Without the watchdog they would keep training next to those of the next run.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cluster.errors import StoreError
from cluster.parallel.worker_signals import StopRequest
from cluster.store.lease import BEATS_PER_TTL, Lease, LeaseBackend, Owner

POLL_INTERVAL_S = 1.0
GRACE_PERIOD_S = 20.0
"""Seconds that a step gets to notice that it should end, which it does between two operations of torch; and a training
that listens, to come to the end of its optimizer step and save.
"""
EXIT_DELAY_S = 1.0
"""Seconds between the answer of a step whose machine is taken away and the end of its process."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_shutting_down = threading.Event()


def is_shutting_down() -> bool:
    """Whether this process was told to go by SIGTERM: no other step may begin in it."""
    return _shutting_down.is_set()


class Watchdog:
    """Guards one step in the main thread of a worker. Use as a context manager around it.

    Whatever ends the step raises KeyboardInterrupt there, except within `committing`: a commit is finished. A training
    that listens (`wish`) is asked first, and ends by itself.

    Args:
        slot: Where the lease is.
        token: With which the driver took it.
        ttl_s: Seconds after which a lease without heartbeat counts for nothing.
    """

    def __init__(self, slot: LeaseBackend, token: str, ttl_s: float) -> None:
        self.lease_lost = False
        self.is_preempted = False
        self.stop_request: StopRequest | None = None
        self.abort: Callable[[], None] | None = None
        """Ends what the step started on other machines; None: nothing."""
        self._slot = slot
        self._token = token
        self._ttl_s = ttl_s
        self._here = Owner.current().namespace
        self._committing = False
        self._before: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None
        self._patient_until = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if threading.current_thread() is threading.main_thread():
            self.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.is_preempted:  # the process shall go, as soon as its answer is on the way
            _shutting_down.set()
            timer = threading.Timer(EXIT_DELAY_S, os.kill, (os.getpid(), signal.SIGTERM))
            timer.daemon = True
            timer.start()

    def listen(self) -> None:
        """Installs the handlers; once more after Ray Train's start, which puts its own in their place."""
        for number in SIGNALS:
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def guard(self, abort: Callable[[], None]) -> None:
        """Calls `abort` when the step has to end, and installs the handlers again, which Ray Train replaced."""
        self.abort = abort
        self.listen()

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
        del frame
        self.is_preempted |= number == signal.SIGTERM
        if self._committing or self._is_patient():
            return
        if self.abort is not None:
            self.abort()
        raise KeyboardInterrupt

    def _is_patient(self) -> bool:
        """Whether a training was asked to end, and may still do so."""
        if self.lease_lost or self.stop_request is None:
            return False
        if self._timer is not None:
            return time.monotonic() < self._patient_until
        if not self.stop_request.send():
            return False
        self._patient_until = time.monotonic() + GRACE_PERIOD_S
        self._timer = threading.Timer(GRACE_PERIOD_S + 0.1, _thread.interrupt_main)
        self._timer.daemon = True
        self._timer.start()
        return True

    def _watch(self) -> None:
        owner: Owner | None = None
        beat, changed = -1, time.monotonic()
        looked = float("-inf")
        while not self._done.wait(min(POLL_INTERVAL_S, self._ttl_s / BEATS_PER_TTL)):
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
            if lease.heartbeat != beat or owner.namespace == self._here:
                beat, changed = lease.heartbeat, now
            elif now - changed > 2 * self._ttl_s:
                self._leave()

    def _is_mine(self, lease: Lease | None) -> bool:
        return lease is not None and lease.token == self._token

    def _end(self) -> None:
        """Another driver has the lease: ends the step, and if it does not listen, the process."""
        self.lease_lost = True
        _thread.interrupt_main()
        if not self._done.wait(GRACE_PERIOD_S):
            self._leave()

    def _leave(self) -> None:
        """The driver is gone, and nobody waits for an answer."""
        while self._committing and not self._done.wait(POLL_INTERVAL_S):
            pass
        if not self._done.is_set():
            os._exit(1)
