"""Leases: one driver at a time, and dead drivers are detected."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import pytest

from cluster.errors import LeaseHeldError
from cluster.store.lease import NAME, TTL_S, FileLease, Lease, Leases, Owner, is_held, read_lease, to_json
from cluster.store.retries import budget_s


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def remote_lease(heartbeat: int = 0) -> Lease:
    """A lease of a driver on another machine."""
    return Lease(owner=replace(Owner.current(), host="far", namespace="far"), token="theirs", heartbeat=heartbeat)


def write(folder: Path, lease: Lease) -> None:
    (folder / NAME).write_bytes(to_json(lease))


def test_acquire_fails_until_the_other_driver_releases(tmp_path: Path) -> None:
    first, second = Leases(), Leases()
    token = first.acquire(FileLease(tmp_path), "a")
    assert is_held(tmp_path, token)
    with pytest.raises(LeaseHeldError, match=r"step a is being run by \S+@\S+, process \d+, started 20"):
        second.acquire(FileLease(tmp_path), "a")
    first.release(FileLease(tmp_path))
    assert read_lease(tmp_path) is None
    assert second.acquire(FileLease(tmp_path), "a") != token


def test_dead_process_on_this_machine_is_detected_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.store.lease import FileLease, Leases; "
        "Leases().acquire(FileLease(Path(sys.argv[1])), 'a')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    lease = read_lease(tmp_path)
    assert lease is not None and lease.owner.is_dead()
    leases = Leases()
    token = leases.acquire(FileLease(tmp_path), "a")
    assert is_held(tmp_path, token)


def test_is_dead_detects_a_reused_process_id() -> None:
    owner = Owner.current()
    assert not owner.is_dead()
    assert replace(owner, started="1").is_dead()
    assert not replace(owner, started="1", namespace="far").is_dead()


def test_lease_of_another_machine_expires_without_heartbeat(tmp_path: Path) -> None:
    clock = Clock()
    leases = Leases(ttl_s=30, clock=clock)
    write(tmp_path, remote_lease())
    for now in (100, 129, 130):
        clock.now = now
        with pytest.raises(LeaseHeldError):
            leases.acquire(FileLease(tmp_path), "a")
    clock.now = 131
    leases.acquire(FileLease(tmp_path), "a")


def test_lease_of_another_machine_never_expires_with_heartbeat(tmp_path: Path) -> None:
    clock = Clock()
    leases = Leases(ttl_s=30, clock=clock)
    for heartbeat in range(20):
        write(tmp_path, remote_lease(heartbeat))
        clock.now += 20
        with pytest.raises(LeaseHeldError):
            leases.acquire(FileLease(tmp_path), "a")


def test_modification_times_do_not_matter(tmp_path: Path) -> None:
    """A wall clock that jumps changes only the times of files."""
    clock = Clock()
    leases = Leases(ttl_s=30, clock=clock)
    write(tmp_path, remote_lease())
    for when in (0, 4_000_000_000):
        os.utime(tmp_path / "lease.json", (when, when))
        with pytest.raises(LeaseHeldError):
            leases.acquire(FileLease(tmp_path), "a")


def test_lost_lease_is_neither_renewed_nor_released(tmp_path: Path) -> None:
    leases = Leases()
    token = leases.acquire(FileLease(tmp_path), "a")
    leases.heartbeat()
    lease = read_lease(tmp_path)
    assert lease is not None and lease.heartbeat == 1 and lease.token == token
    write(tmp_path, remote_lease(5))
    leases.heartbeat()
    leases.release(FileLease(tmp_path))
    assert read_lease(tmp_path) == remote_lease(5)


def test_context_renews_and_releases(tmp_path: Path) -> None:
    with Leases(ttl_s=0.3) as leases:
        leases.acquire(FileLease(tmp_path), "a")
        deadline = time.monotonic() + 10
        while (lease := read_lease(tmp_path)) is not None and lease.heartbeat < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert read_lease(tmp_path) is None


class SlowStore:
    """A lease whose reads take `outage_s` seconds, as in an outage of the store."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.outage_s = 0.0
        self.lease = remote_lease()

    def read(self) -> Lease:
        self.clock.now += self.outage_s
        return self.lease

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        return True


def test_outage_of_the_store_expires_no_lease(tmp_path: Path) -> None:
    """No driver can renew a lease then, and the driver that waits sees an old heartbeat after it."""
    clock = Clock()
    leases, slot = Leases(ttl_s=30, clock=clock), SlowStore(clock)
    for slot.outage_s in (0, 25, 200, 0, 29):
        with pytest.raises(LeaseHeldError):
            leases.acquire(slot, "a")
    clock.now += 31
    slot.outage_s = 0
    leases.acquire(slot, "a")


class DistantLease:
    """A lease on a server whose requests take 20 ms. Notes how many requests are open at once."""

    open_requests = 0
    most_at_once = 0
    budgets: ClassVar[set[float]] = set()

    def __init__(self) -> None:
        self.lease: Lease | None = None

    def read(self) -> Lease | None:
        return self.lease

    def compare_and_swap(self, token: str | None, lease: Lease | None, *, sync: bool = True) -> bool:
        DistantLease.open_requests += 1
        DistantLease.most_at_once = max(DistantLease.most_at_once, DistantLease.open_requests)
        DistantLease.budgets.add(budget_s())
        time.sleep(0.02)
        DistantLease.open_requests -= 1
        self.lease = lease
        return True


def test_round_of_heartbeats_of_a_thousand_distant_leases_is_short() -> None:
    """One after the other they would take 20 s. With 150 ms, as to a distant server, 1000 leases would take 150 s."""
    leases = Leases()
    slots = [DistantLease() for _ in range(1000)]
    for number, slot in enumerate(slots):
        leases.renew(slot, str(number))
    started = time.monotonic()
    leases.heartbeat()
    assert time.monotonic() - started < TTL_S / 3
    assert {slot.lease.heartbeat for slot in slots if slot.lease is not None} == {1}
    assert 1000 / DistantLease.most_at_once * 0.15 < TTL_S / 3
    assert DistantLease.budgets == {0}, "a request that is repeated would block its thread"


UNREADABLE = [b"", b'{"owner": {"host"', b"\x00" * 64, b"[1, 2]", b"7", b'"text"', b'{"owner": 1}', b"<html>503</html>"]


@pytest.mark.parametrize("content", UNREADABLE)
def test_unreadable_lease_expires(tmp_path: Path, content: bytes) -> None:
    clock = Clock()
    leases = Leases(ttl_s=30, clock=clock)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(LeaseHeldError, match="a process of another version"):
        leases.acquire(FileLease(tmp_path), "a")
    clock.now += 31
    assert is_held(tmp_path, leases.acquire(FileLease(tmp_path), "a"))


@pytest.mark.parametrize("content", UNREADABLE)
def test_unreadable_lease_is_repaired_by_its_owner(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other"
    leases = Leases()
    token = leases.acquire(FileLease(tmp_path), "a")
    leases.acquire(FileLease(other), "b")
    (tmp_path / NAME).write_bytes(content)
    leases.heartbeat()
    assert is_held(tmp_path, token)
    renewed = read_lease(other)
    assert renewed is not None and renewed.heartbeat == 1, "other leases are renewed, too"


def test_heartbeats_start_again_after_their_thread_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken, Leases(ttl_s=0.3) as leases:
        leases.acquire(FileLease(tmp_path), "a")
        broken.setattr(Leases, "heartbeat", lambda self: 1 / 0)
        deadline = time.monotonic() + 10
        while not (reason := leases.restart()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        broken.undo()
        assert reason == "ZeroDivisionError: division by zero"
        while (lease := read_lease(tmp_path)) is None or lease.heartbeat < 2:
            leases.restart()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert leases.restart() == "", "a run that ended needs no heartbeats"


def test_lease_of_another_version_has_an_unknown_owner(tmp_path: Path) -> None:
    """It expires like the lease of another machine."""
    clock = Clock()
    leases = Leases(ttl_s=30, clock=clock)
    (tmp_path / NAME).write_text('{"owner": {"pid": 1, "space": "x"}, "token": "theirs", "beat": 1}')
    with pytest.raises(LeaseHeldError, match="a process of another version"):
        leases.acquire(FileLease(tmp_path), "a")
    clock.now += 31
    assert is_held(tmp_path, leases.acquire(FileLease(tmp_path), "a"))
    assert not Owner.from_json('{"pid": 1, "space": "x"}').is_dead()
    assert Owner.from_json(Owner.current().to_json()) == Owner.current()


def test_owner_names_user_machine_process_and_start() -> None:
    owner = Owner(host="host", namespace="n", pid=7, started="1", user="ann", started_at=1_700_000_000.0)
    started = datetime.fromtimestamp(1_700_000_000).strftime("%Y-%m-%d %H:%M:%S")
    assert str(owner) == f"ann@host, process 7, started {started}"
    earlier = json.dumps({"host": "host", "namespace": "n", "pid": 7, "started": "1"})
    assert str(Owner.from_json(earlier)) == "host, process 7", "of an earlier version"
