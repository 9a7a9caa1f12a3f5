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
from contextlib import contextmanager, suppress
from types import FrameType

from cluster.errors import StoreError
from cluster.parallel.worker_signals import StopRequest
from cluster.run.signals import TemporaryHandlers
from cluster.store.lease import BEATS_PER_TTL, LeaseBackend, Owner

POLL_INTERVAL_S = 1.0
GRACE_PERIOD_S = 20.0
"""Seconds that a step gets to end. An interrupt takes effect between two operations of torch; training that accepts
stop requests finishes its optimizer step and saves a checkpoint.
"""
EXIT_DELAY_S = 1.0
"""Seconds between the result of a preempted step and the end of its process."""
_shutting_down = threading.Event()


def is_shutting_down() -> bool:
    """Returns True after SIGTERM: no other step may start in this process."""
    return _shutting_down.is_set()


class Watchdog:
    """Guards one step in the main thread of a worker. Use as a context manager around the step.

    To end the step it raises KeyboardInterrupt there, except within `committing`: a commit is always finished. Training
    that accepts a `stop_request` ends by itself.

    Args:
        slot: Where the lease is stored.
        token: The token with which the driver acquired the lease.
        ttl_s: Seconds without a heartbeat after which the lease is expired.
        rival: The token of an attempt of the same driver that has the lease until this step commits; empty if none has.
    """

    def __init__(self, slot: LeaseBackend, token: str, ttl_s: float, rival: str = "") -> None:
        self.lease_lost = False
        self.is_preempted = False
        self.stop_request: StopRequest | None = None
        self.clean_up: Callable[[], None] = lambda: None
        """Called before the process exits without returning from the step."""
        self.abort: Callable[[], None] | None = None
        """Ends the processes that the step started on other machines, if any."""
        self._slot = slot
        self._tokens = {token, rival or token}
        self._ttl_s = ttl_s
        self._namespace = Owner.current().namespace
        self._is_committing = False
        self._is_canceled = False
        self._handlers = TemporaryHandlers(self._handle)
        self._interrupt_timer: threading.Timer | None = None
        self._interrupt_at_s = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._handlers.install()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._interrupt_timer is not None:
            self._interrupt_timer.cancel()
        self._handlers.remove()
        if self.is_preempted:  # end the process as soon as its result was sent
            _shutting_down.set()
            _start_timer(EXIT_DELAY_S, os.kill, os.getpid(), signal.SIGTERM)

    def guard(self, abort: Callable[[], None]) -> None:
        """Calls `abort` when the step must end, and installs the handlers again, which Ray Train replaced."""
        self.abort = abort
        self._handlers.install()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Nothing ends the step inside the block except its own errors."""
        self._is_committing = True
        try:
            yield
        finally:
            self._is_committing = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handles SIGTERM, and SIGINT, which Ray simulates to cancel a task."""
        del frame
        self.is_preempted |= number == signal.SIGTERM
        self._is_canceled = True  # perhaps because another attempt has committed: read the lease without delay
        if self._is_committing or self._ends_gracefully():
            return
        if self.abort is not None:
            self.abort()
        raise KeyboardInterrupt

    def _ends_gracefully(self) -> bool:
        """Requests training to stop. Returns True if it accepted, and its grace period is not over."""
        if self.lease_lost or self.stop_request is None:
            return False
        if self._interrupt_timer is not None:
            return time.monotonic() < self._interrupt_at_s
        if not self.stop_request.send():
            return False
        self._interrupt_at_s = time.monotonic() + GRACE_PERIOD_S
        self._interrupt_timer = _start_timer(GRACE_PERIOD_S + 0.1, _thread.interrupt_main)
        return True

    def _watch(self) -> None:
        """In a thread: ends the step if its lease is lost, and the process if its driver is dead."""
        owner: Owner | None = None
        read_interval_s = self._ttl_s / BEATS_PER_TTL
        heartbeat, changed_at_s = -1, time.monotonic()
        read_at_s = float("-inf")
        while not self._done.wait(min(POLL_INTERVAL_S, read_interval_s)):
            if owner is not None and owner.is_dead():
                self._exit()
            now = time.monotonic()
            if now - read_at_s < read_interval_s and not self._is_canceled:
                continue
            read_at_s, self._is_canceled = now, False
            try:
                lease = self._slot.read()
            except (OSError, ValueError, StoreError):
                # An unreachable store does not mean that the driver is dead.
                changed_at_s = now
                continue
            if lease is not None and not lease.is_readable:
                continue  # its driver repairs it with the next heartbeat, or another driver acquires it
            if lease is None or lease.token not in self._tokens:
                self._end_step()
                return
            owner = lease.owner
            if lease.heartbeat != heartbeat or owner.namespace == self._namespace:
                heartbeat, changed_at_s = lease.heartbeat, now
            elif now - changed_at_s > 2 * self._ttl_s:
                self._exit()

    def _end_step(self) -> None:
        """Interrupts the step because another attempt has its lease. If that has no effect, ends the process."""
        self.lease_lost = True
        _thread.interrupt_main()
        if not self._done.wait(GRACE_PERIOD_S):
            self._exit()

    def _exit(self) -> None:
        """Ends the process after any commit. The driver is gone, so no one needs a result."""
        while self._is_committing and not self._done.wait(POLL_INTERVAL_S):
            pass
        if not self._done.is_set():
            with suppress(OSError):
                self.clean_up()
            os._exit(1)


def _start_timer(seconds: float, function: Callable[..., object], *arguments: object) -> threading.Timer:
    """Starts a timer that does not keep the process alive."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    return timer
