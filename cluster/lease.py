"""Leases: at most one driver runs a step, and a driver that died is found out.

A lease is a small file with its owner and a counter that the owner raises every few seconds. Who wants the step judges:
an owner on this machine is dead if its process is gone; any other one if the counter stood still for `TTL_S` seconds of
the judge's own monotonic clock. No two clocks are ever compared, so a clock that jumps does no harm.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.disk import write_atomic
from cluster.errors import LeaseHeld

TTL_S = 30.0
BEATS_PER_TTL = 6
NAME = "lease.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process. `space` names machine, boot and container, within which `pid` and `started` mean something."""

    host: str
    space: str
    pid: int
    started: str

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(host=os.uname().nodename, space=_space(), pid=pid, started=_started(pid) or "")

    def is_dead(self) -> bool:
        """Whether the process is known to be gone; False also where that cannot be told from here."""
        return self.space == _space() and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """What the file says. `token` is new for every time a lease is taken."""

    owner: Owner
    token: str
    beat: int = 0


class Leases:
    """All leases of one driver, kept alive by one thread.

    Args:
        ttl_s: Seconds without a heartbeat after which others may take a step over.
        clock: Monotonic seconds; tests hand in their own.
    """

    def __init__(self, ttl_s: float = TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.owner = Owner.me()
        self.ttl_s = ttl_s
        self._clock = clock
        self._held: dict[Path, Lease] = {}
        self._watched: dict[Path, tuple[str, int, float]] = {}
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
        for place in list(self._held):
            self.release(place)

    def acquire(self, place: Path, step: str) -> str:
        """Takes the lease of the step whose results lie in `place`. Returns its token.

        Raises:
            LeaseHeld: another driver has it, and is not known to be dead.
        """
        place.mkdir(parents=True, exist_ok=True)
        with locked(place):
            current = read_lease(place)
            if current is not None and not self._expired(place, current):
                raise LeaseHeld(step, str(current.owner))
            lease = Lease(owner=self.owner, token=os.urandom(16).hex())
            _write(place, lease)
        with self._lock:
            self._held[place] = lease
            self._watched.pop(place, None)
        return lease.token

    def release(self, place: Path) -> None:
        """Gives a lease back; one that was lost meanwhile is left to its new owner."""
        with self._lock:
            mine = self._held.pop(place, None)
        if mine is None or not place.exists():
            return
        with locked(place):
            if is_held(place, mine.token):
                (place / NAME).unlink()

    def beat(self) -> None:
        """Raises the counters of all leases held."""
        with self._lock:
            for place, mine in list(self._held.items()):
                if not place.exists():
                    continue
                with locked(place):
                    if not is_held(place, mine.token):
                        del self._held[place]
                        continue
                    following = Lease(owner=mine.owner, token=mine.token, beat=mine.beat + 1)
                    _write(place, following, sync=False)
                    self._held[place] = following

    def _expired(self, place: Path, lease: Lease) -> bool:
        if lease.owner.is_dead():
            return True
        now = self._clock()
        token, beat, since = self._watched.get(place, ("", -1, now))
        if (token, beat) != (lease.token, lease.beat):
            self._watched[place] = (lease.token, lease.beat, now)
            return False
        return now - since > self.ttl_s

    def _keep_beating(self) -> None:
        while not self._done.wait(self.ttl_s / BEATS_PER_TTL):
            try:
                self.beat()
            except OSError:
                # A full or absent disk: the lease may expire, and then the commit is refused. Nothing else to do here.
                continue


def read_lease(place: Path) -> Lease | None:
    """The lease on the results in `place`, if somebody has one."""
    try:
        about: dict[str, Any] = json.loads((place / NAME).read_bytes())
    except FileNotFoundError:
        return None
    return Lease(owner=Owner(**about["owner"]), token=about["token"], beat=about["beat"])


def is_held(place: Path, token: str) -> bool:
    """Whether the lease is still the one that was taken with `token`."""
    lease = read_lease(place)
    return lease is not None and lease.token == token


def _write(place: Path, lease: Lease, *, sync: bool = True) -> None:
    write_atomic(place / NAME, json.dumps(asdict(lease), indent=2).encode(), sync=sync)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Looking at a lease and acting upon it must not interleave. The system frees the lock of a process that dies."""
    with (place / ".lease.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _space() -> str:
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
    import subprocess

    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
