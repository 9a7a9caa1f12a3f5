"""Leases: at most one driver runs a step, and other drivers detect a driver that died.

A lease is a small file with its owner and a heartbeat counter, which the owner increments every few seconds. A driver
that wants the step checks the owner. An owner on the same machine is dead if its process is gone. Any other owner is
dead if the counter did not change for `TTL_S` seconds of the checking driver's own monotonic clock. No two clocks are
compared, so a clock that jumps does no harm. A lease file that is empty, truncated or foreign expires like the lease of
another machine, unless its driver writes it again first.

A `LeaseBackend` stores the file: on a disk (`FileLease`, here) or in an object store (`cluster.store.remote`).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cluster.errors import LeaseHeldError, LeaseLostError, StoreError
from cluster.provenance import user
from cluster.store.files import write_atomic
from cluster.store.retries import budget

TTL_S = 30.0
"""Seconds without a heartbeat after which a lease expires."""
BEATS_PER_TTL = 6
RENEWED_AT_ONCE = 32
"""Leases that are renewed at the same time: one after the other, those of a thousand steps on a server would expire."""
POLL_S = 1.0
NAME = "lease.json"
HIDDEN = "hidden"
"""Start of a process that exists, and of which nothing else is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process. `namespace` identifies machine, boot and container, within which `pid` and `started` are unique.

    `user` and `started_at` (seconds since 1970) tell people whose process it is.
    """

    host: str
    namespace: str
    pid: int
    started: str
    user: str = ""
    started_at: float = 0.0

    @classmethod
    def current(cls) -> Owner:
        """Returns this process."""
        pid = os.getpid()
        return cls(
            host=os.uname().nodename,
            namespace=_namespace(),
            pid=pid,
            started=_started(pid) or "",
            user=user(),
            started_at=_STARTED_AT,
        )

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Reads what `to_json` wrote. The text of another version of the program gives an unknown owner."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return UNKNOWN_OWNER

    def to_json(self) -> str:
        """Returns the owner as text, for example for a tag."""
        return json.dumps(asdict(self))

    def is_dead(self) -> bool:
        """Returns True if the process is known to be gone. Unknown on other machines, and for hidden processes."""
        return self.namespace == _namespace() and _started(self.pid) not in (self.started, HIDDEN)

    def __str__(self) -> str:
        if not self.pid:
            return "a process of another version"
        name = f"{self.user}@{self.host}" if self.user else self.host
        since = f", started {datetime.fromtimestamp(self.started_at):%Y-%m-%d %H:%M:%S}" if self.started_at else ""
        return f"{name}, process {self.pid}{since}"


_STARTED_AT = time.time()
"""When this process started, to the second."""
UNKNOWN_OWNER = Owner(host="", namespace="", pid=0, started="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The content of the file. `token` is new whenever a lease is acquired."""

    owner: Owner
    token: str
    heartbeat: int = 0

    @property
    def is_readable(self) -> bool:
        """False for a file that this version cannot read: damaged, foreign, or of another version."""
        return self.owner != UNKNOWN_OWNER


class LeaseBackend(Protocol):
    """Where one lease is stored. Equal backends store the same lease."""

    def read(self) -> Lease | None:
        """Returns the lease, or None if it is free."""

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        """Replaces the lease that was acquired with `token` (None: a free one) by `lease` (None: free).

        Returns False if the current lease has another token. If several processes try at once, one succeeds. Without
        `sync` a power failure may undo the change.
        """


@dataclass(frozen=True, slots=True)
class FileLease:
    """A lease on a local disk, in the folder of the step's result."""

    folder: Path

    def read(self) -> Lease | None:
        """See `LeaseBackend`."""
        return read_lease(self.folder)

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        """See `LeaseBackend`."""
        while True:
            if token is None:
                self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with locked(self.folder):
                    return self._compare_and_swap(token, lease, sync)
            except FileNotFoundError:
                # The folder was removed together with its lease.
                if token is not None:
                    return False

    def _compare_and_swap(self, token: str | None, lease: Lease | None, sync: bool) -> bool:
        current = self.read()
        if (current.token if current else None) != token:
            return False
        if lease is not None:
            write_atomic(self.folder / NAME, to_json(lease), sync=sync)
        else:
            (self.folder / NAME).unlink(missing_ok=True)
        return True


class Leases:
    """All leases of one driver. One thread starts a round of heartbeats every few seconds.

    Args:
        ttl_s: Seconds without a heartbeat after which another driver may take a step over.
        clock: Monotonic seconds; tests pass their own.
    """

    def __init__(self, ttl_s: float = TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.owner = Owner.current()
        self.ttl_s = ttl_s
        self._clock = clock
        self._acquired: dict[LeaseBackend, Lease] = {}
        self._observed: dict[LeaseBackend, tuple[str, int, float]] = {}
        """Leases of other drivers: token, heartbeat, and since when the heartbeat is unchanged."""
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._death = ""

    def __enter__(self) -> Leases:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        for slot in list(self._acquired):
            self.release(slot)

    def acquire(self, slot: LeaseBackend, step: str) -> str:
        """Acquires the lease of a step. Returns its token.

        Args:
            slot: From `Store.slot`.
            step: Name of the step, for the error.

        Raises:
            LeaseHeldError: another driver has it, and is not known to be dead.
            StoreError: the lease cannot be written.
        """
        lease = Lease(owner=self.owner, token=new_token())
        take(slot, lease, step, lambda current: self._is_expired(slot, current), lambda: self._read(slot))
        self.renew(slot, lease.token)
        return lease.token

    def renew(self, slot: LeaseBackend, token: str) -> None:
        """Renews a lease from now on that a worker acquired in the name of this driver, with `token`."""
        with self._lock:
            self._acquired[slot] = Lease(owner=self.owner, token=token)
            self._observed.pop(slot, None)

    def forget(self, slot: LeaseBackend) -> None:
        """Renews a lease no longer, because the worker that acquired it has released it or lost it."""
        with self._lock:
            self._acquired.pop(slot, None)

    def observe(self, slot: LeaseBackend, step: str) -> str:
        """Returns the token of an expired lease, or an empty text if the lease is free.

        Raises:
            LeaseHeldError: another driver has it, and is not known to be dead.
            StoreError: the store is unreachable.
        """
        current = self._read(slot)
        if current is None:
            return ""
        if not self._is_expired(slot, current):
            raise LeaseHeldError(step, str(current.owner))
        return current.token

    def wait(self, slot: LeaseBackend, step: str, pause: Callable[[float], object]) -> bool:
        """Acquires a lease, if need be after it has expired. Returns False if its owner is alive.

        Args:
            slot: From `Store.slot`.
            step: Name of the step.
            pause: Waits for some seconds.
        """
        end = self._clock() + 2 * self.ttl_s
        heartbeats: set[tuple[str, int]] = set()
        while True:
            try:
                self.acquire(slot, step)
            except LeaseHeldError:
                if (lease := slot.read()) is not None:
                    heartbeats.add((lease.token, lease.heartbeat))
                if len(heartbeats) > 1 or self._clock() > end:
                    return False
                pause(POLL_S)
            else:
                return True

    def release(self, slot: LeaseBackend) -> None:
        """Releases a lease. Does nothing if another driver has it now."""
        with self._lock:
            lease = self._acquired.pop(slot, None)
        if lease is not None:
            # If the store is unreachable, the lease expires because it gets no more heartbeats.
            with suppress(OSError, StoreError):
                slot.compare_and_swap(lease.token, None)

    def heartbeat(self) -> None:
        """Increments the counters of all acquired leases."""
        with self._lock:
            acquired = list(self._acquired.items())
        if acquired:
            with ThreadPoolExecutor(min(RENEWED_AT_ONCE, len(acquired)), "leases") as pool:
                list(pool.map(self._beat, *zip(*acquired, strict=True)))

    def _beat(self, slot: LeaseBackend, lease: Lease) -> None:
        """Increments the counter of a lease once. Called in several threads."""
        renewed = replace(lease, heartbeat=lease.heartbeat + 1)
        try:
            # A call that is repeated or hangs for minutes would let the lease and others expire.
            with budget(0, self.ttl_s / BEATS_PER_TTL):
                is_renewed = _renew(slot, lease.token, renewed)
        except (OSError, StoreError):
            # The disk is full or the store unreachable. If that lasts, the lease expires and the commit fails.
            return
        with self._lock:
            if self._acquired.get(slot) is not lease:
                return
            if is_renewed:
                self._acquired[slot] = renewed
            else:
                del self._acquired[slot]

    def restart(self) -> str:
        """Starts the thread again if it ended. Returns why it ended; empty if it did not."""
        if self._thread is None or self._thread.is_alive() or self._done.is_set():
            return ""
        self._start()
        return self._death

    def _is_expired(self, slot: LeaseBackend, lease: Lease) -> bool:
        if lease.owner.is_dead():
            return True
        now = self._clock()
        token, heartbeat, unchanged_since = self._observed.get(slot, ("", -1, now))
        if (token, heartbeat) != (lease.token, lease.heartbeat):
            self._observed[slot] = (lease.token, lease.heartbeat, now)
            return False
        return now - unchanged_since > self.ttl_s

    def _read(self, slot: LeaseBackend) -> Lease | None:
        """Reads a lease. After an outage of the store, in which no owner could renew, its time starts again."""
        started = self._clock()
        try:
            lease = slot.read()
        except StoreError:
            self._observed.pop(slot, None)
            raise
        if self._clock() - started > self.ttl_s / BEATS_PER_TTL:
            self._observed.pop(slot, None)
        return lease

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._keep_beating, name="leases", daemon=True)
        self._thread.start()

    def _keep_beating(self) -> None:
        try:
            while not self._done.wait(self.ttl_s / BEATS_PER_TTL):
                self.heartbeat()
        except BaseException as error:  # the driver reports it, whatever it is
            self._death = f"{type(error).__name__}: {error}"


def new_token() -> str:
    """Returns the token of a new lease."""
    return os.urandom(16).hex()


def take(
    slot: LeaseBackend,
    lease: Lease,
    step: str,
    is_expired: Callable[[Lease], bool],
    read: Callable[[], Lease | None] | None = None,
) -> None:
    """Acquires a lease once.

    Args:
        slot: Where it is stored.
        lease: The new lease.
        step: Name of the step, for the error.
        is_expired: Says if the lease of another driver may be replaced.
        read: Reads the lease for the first time. Default: `slot.read`, after an attempt without reading.

    Raises:
        LeaseHeldError: another driver has it.
        StoreError: the lease cannot be written.
    """
    try:
        # A power failure ends all processes of a machine, so a lease need not survive it.
        if read is None and slot.compare_and_swap(None, lease, sync=False):  # most leases are free
            return
        current = (read or slot.read)()
        while current is None or is_expired(current):
            if slot.compare_and_swap(current.token if current else None, lease, sync=False):
                return
            current = slot.read()
    except OSError as error:
        raise StoreError(
            f"the lease of step {step} cannot be written ({error.strerror or error}).",
            "Free some disk space, or correct the permissions of the store, and run again: committed results are kept.",
        ) from error
    raise LeaseHeldError(step, str(current.owner))


def supersede(slot: LeaseBackend, token: str, lease: Lease, step: str) -> None:
    """Replaces the lease of another attempt of the same driver, which has `token`.

    Raises:
        LeaseLostError: it has another token now, or is free.
    """
    if not slot.compare_and_swap(token, lease):
        raise LeaseLostError(step)


def _renew(slot: LeaseBackend, token: str, renewed: Lease) -> bool:
    """Writes a heartbeat. Repairs a file that became unreadable, which no other driver has acquired yet."""
    if slot.compare_and_swap(token, renewed, sync=False):
        return True
    current = slot.read()
    if current is None or current.is_readable:
        return False
    return slot.compare_and_swap(current.token, renewed, sync=False)


def to_json(lease: Lease | None) -> bytes:
    """Returns the content of a lease file."""
    return json.dumps(None if lease is None else asdict(lease), indent=2).encode()


def from_json(data: bytes) -> Lease | None:
    """Reads what `to_json` wrote. Any other content is the lease of an unknown owner."""
    # The content may change with every heartbeat, so its checksum serves as token and counter.
    unreadable = Lease(owner=UNKNOWN_OWNER, token=f"unreadable {zlib.crc32(data)}", heartbeat=zlib.crc32(data))
    try:
        fields = json.loads(data)
        if fields is None:
            return None
        lease = Lease(owner=Owner(**fields["owner"]), token=fields["token"], heartbeat=fields["heartbeat"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return unreadable
    expected = (lease.token, str), (lease.heartbeat, int), (lease.owner.pid, int), (lease.owner.namespace, str)
    return lease if all(isinstance(value, kind) for value, kind in expected) else unreadable


def read_lease(folder: Path) -> Lease | None:
    """Returns the lease on the result in a local folder, or None if it is free."""
    try:
        return from_json((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None


def is_held(folder: Path, token: str) -> bool:
    """Returns True if the lease was acquired with `token`."""
    lease = read_lease(folder)
    return lease is not None and lease.token == token


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder, so that no other process acts between reading and writing its lease.

    The system releases the lock of a process that dies.

    Raises:
        FileNotFoundError: the folder does not exist, or was removed in the meantime.
    """
    path = folder / ".lease.lock"
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have removed and recreated the folder, and this lock file with it.
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue
            yield
            return


def _namespace() -> str:
    """Identifies the machine, its boot and the container. Process ids are comparable only within one namespace."""
    parts = [os.uname().nodename]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", Path.read_text),
        ("/proc/self/ns/pid", os.readlink),
    ):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            # Systems other than Linux have neither; the host name has to suffice.
            continue
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Returns when a process started, independent of clock changes; None if it does not exist or is a zombie.

    `HIDDEN` for a process of another user that `/proc` does not show (mount option hidepid).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, PermissionError):
        if not Path("/proc/self/stat").exists():
            return _started_by_ps(pid)
        return HIDDEN if _exists(pid) else None
    # The second field is the program name in parentheses, which may contain spaces.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    """Returns True if there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _started_by_ps(pid: int) -> str | None:
    """Does the same on systems without /proc."""
    ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return ps.stdout.strip() or None
