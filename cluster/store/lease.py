"""Leases: at most one driver runs a step, and other drivers detect a driver that died.

A lease is a small file with its owner and a heartbeat counter, which the owner increments every few seconds. A driver
that wants the step checks the owner. An owner on the same machine is dead if its process is gone. Any other owner is
dead if the counter did not change for `TTL_S` seconds of the checking driver's own monotonic clock. No two clocks are
compared, so a clock that jumps does no harm.

A `LeaseBackend` stores the file: on a disk (`FileLease`, here) or in an object store (`cluster.store.remote`).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from cluster.errors import LeaseHeldError, StoreError
from cluster.store.files import write_atomic

TTL_S = 30.0
BEATS_PER_TTL = 6
NAME = "lease.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process. `space` names machine, boot and container, within which `pid` and `started` mean something."""

    host: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(host=os.uname().nodename, namespace=_namespace(), pid=pid, started=_started(pid) or "")

    def is_dead(self) -> bool:
        """Whether the process is known to be gone; False also where that cannot be told from here."""
        return self.namespace == _namespace() and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """What the file says. `token` is new for every time a lease is taken."""

    owner: Owner
    token: str
    heartbeat: int = 0


class LeaseBackend(Protocol):
    """The place of one lease. Equal slots are the same place."""

    def read(self) -> Lease | None:
        """The lease, if somebody has it."""

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        """Puts `lease` there (None: leaves the place free), if the one there was taken with `token` (None: is free).

        Of several who try at once, one succeeds. Without `sync` a power cut may undo it.
        """


@dataclass(frozen=True, slots=True)
class FileLease:
    """A lease on a local disk, in the folder of the results that it is about."""

    place: Path

    def read(self) -> Lease | None:
        """See `Slot`."""
        return read_lease(self.place)

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        """See `Slot`."""
        while True:
            if token is None:
                self.place.mkdir(parents=True, exist_ok=True)
            try:
                with locked(self.place):
                    return self._compare_and_swap(token, lease, sync)
            except FileNotFoundError:
                # The folder was removed as a whole, with whatever lease it had.
                if token is not None:
                    return False

    def _compare_and_swap(self, token: str | None, lease: Lease | None, sync: bool) -> bool:
        current = self.read()
        if (current.token if current else None) != token:
            return False
        if lease is not None:
            _write(self.place, lease, sync=sync)
        else:
            (self.place / NAME).unlink(missing_ok=True)
        return True


class Leases:
    """All leases of one driver, kept alive by one thread.

    Args:
        ttl_s: Seconds without a heartbeat after which others may take a step over.
        clock: Monotonic seconds; tests hand in their own.
    """

    def __init__(self, ttl_s: float = TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.owner = Owner.current()
        self.ttl_s = ttl_s
        self._clock = clock
        self._held: dict[LeaseBackend, Lease] = {}
        self._watched: dict[LeaseBackend, tuple[str, int, float]] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        self._thread = threading.Thread(target=self._keep_beating, name="leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        for slot in list(self._held):
            self.release(slot)

    def acquire(self, where: LeaseBackend | Path, step: str) -> str:
        """Takes the lease of a step. Returns its token.

        Args:
            where: From `Store.slot`, or the folder of the results.
            step: Name of the step, for the error.

        Raises:
            LeaseHeld: another driver has it, and is not known to be dead.
            StoreError: the lease cannot be written.
        """
        slot = _backend(where)
        lease = Lease(owner=self.owner, token=os.urandom(16).hex())
        try:
            current = slot.read()
            while current is None or self._expired(slot, current):
                if slot.compare_and_swap(current.token if current else None, lease):
                    break
                current = slot.read()
            else:
                raise LeaseHeldError(step, str(current.owner))
        except OSError as error:
            raise StoreError(
                f"the lease of step {step} cannot be written ({error.strerror or error}).",
                "Free some space, or correct the store's permissions, and run again: what is committed stays.",
            ) from error
        with self._lock:
            self._held[slot] = lease
            self._watched.pop(slot, None)
        return lease.token

    def release(self, where: LeaseBackend | Path) -> None:
        """Gives a lease back; one that was lost meanwhile is left to its new owner."""
        slot = _backend(where)
        with self._lock:
            mine = self._held.pop(slot, None)
        if mine is not None:
            # A store out of reach: the lease, which is beaten no more, expires by itself.
            with suppress(OSError, StoreError):
                slot.compare_and_swap(mine.token, None)

    def heartbeat(self) -> None:
        """Raises the counters of all leases held."""
        with self._lock:
            held = list(self._held.items())
        for slot, mine in held:
            following = replace(mine, heartbeat=mine.heartbeat + 1)
            try:
                kept = slot.compare_and_swap(mine.token, following, sync=False)
            except (OSError, StoreError):
                # A full disk, a store out of reach: if it lasts the lease expires, and then the commit is refused.
                continue
            with self._lock:
                if self._held.get(slot) is not mine:
                    continue
                if kept:
                    self._held[slot] = following
                else:
                    del self._held[slot]

    def _expired(self, slot: LeaseBackend, lease: Lease) -> bool:
        if lease.owner.is_dead():
            return True
        now = self._clock()
        token, beat, since = self._watched.get(slot, ("", -1, now))
        if (token, beat) != (lease.token, lease.heartbeat):
            self._watched[slot] = (lease.token, lease.heartbeat, now)
            return False
        return now - since > self.ttl_s

    def _keep_beating(self) -> None:
        while not self._done.wait(self.ttl_s / BEATS_PER_TTL):
            self.heartbeat()


def to_json(lease: Lease | None) -> bytes:
    """A lease as a file."""
    return json.dumps(None if lease is None else asdict(lease), indent=2).encode()


def from_json(data: bytes) -> Lease | None:
    """What `to_json` wrote."""
    about = json.loads(data)
    return (
        None
        if about is None
        else Lease(owner=Owner(**about["owner"]), token=about["token"], heartbeat=about["heartbeat"])
    )


def read_lease(place: Path) -> Lease | None:
    """The lease on the results in the local folder `place`, if somebody has one."""
    try:
        return from_json((place / NAME).read_bytes())
    except FileNotFoundError:
        return None


def is_held(place: Path, token: str) -> bool:
    """Whether the lease is still the one that was taken with `token`."""
    lease = read_lease(place)
    return lease is not None and lease.token == token


def _backend(where: LeaseBackend | Path) -> LeaseBackend:
    return FileLease(where) if isinstance(where, Path) else where


def _write(place: Path, lease: Lease, *, sync: bool = True) -> None:
    write_atomic(place / NAME, to_json(lease), sync=sync)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Looking at a lease and acting upon it must not interleave. The system frees the lock of a process that dies.

    Raises:
        FileNotFoundError: the folder is not there, or was removed meanwhile.
    """
    path = place / ".lease.lock"
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who removed the folder while we waited held the lock of a file that no longer counts.
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue
            yield
            return


def _namespace() -> str:
    """Names the machine, its boot and the container: process numbers mean the same where this is the same."""
    parts = [os.uname().nodename]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", Path.read_text),
        ("/proc/self/ns/pid", os.readlink),
    ):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            # Not a Linux system: the name of the host has to do.
            continue
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process started, in a form that no clock change alters; None: there is none (or only its zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    # The second field is the program's name in brackets, which may hold spaces.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _started_elsewhere(pid: int) -> str | None:
    """The same on systems without /proc."""

    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
