"""Leases: one driver at a time, and the dead are found out."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import LeaseHeldError
from cluster.store.lease import Lease, Leases, Owner, _write, is_held, read_lease


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def elsewhere(beat: int = 0) -> Lease:
    """A lease of a driver on another machine, whose process cannot be looked at."""
    return Lease(owner=replace(Owner.current(), host="far", namespace="far"), token="theirs", heartbeat=beat)


def test_second_driver_is_refused_until_the_first_gives_it_back(tmp_path: Path) -> None:
    first, second = Leases(), Leases()
    token = first.acquire(tmp_path, "a")
    assert is_held(tmp_path, token)
    with pytest.raises(LeaseHeldError, match=r"step a is being run by process \d+ on "):
        second.acquire(tmp_path, "a")
    first.release(tmp_path)
    assert read_lease(tmp_path) is None
    assert second.acquire(tmp_path, "a") != token


def test_dead_process_on_this_machine_is_recognised_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.store.lease import Leases; "
        "Leases().acquire(Path(sys.argv[1]), 'a')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    left = read_lease(tmp_path)
    assert left is not None and left.owner.is_dead()
    mine = Leases()
    token = mine.acquire(tmp_path, "a")
    assert is_held(tmp_path, token)


def test_reused_process_number_is_not_mistaken_for_the_owner() -> None:
    me = Owner.current()
    assert not me.is_dead()
    assert replace(me, started="1").is_dead()
    assert not replace(me, started="1", namespace="far").is_dead()


def test_silent_owner_elsewhere_expires_by_the_observers_clock(tmp_path: Path) -> None:
    clock = Clock()
    mine = Leases(ttl_s=30, clock=clock)
    _write(tmp_path, elsewhere())
    for now in (100, 129, 130):
        clock.now = now
        with pytest.raises(LeaseHeldError):
            mine.acquire(tmp_path, "a")
    clock.now = 131
    mine.acquire(tmp_path, "a")


def test_beating_owner_elsewhere_never_expires(tmp_path: Path) -> None:
    clock = Clock()
    mine = Leases(ttl_s=30, clock=clock)
    for beat in range(20):
        _write(tmp_path, elsewhere(beat))
        clock.now += 20
        with pytest.raises(LeaseHeldError):
            mine.acquire(tmp_path, "a")


def test_files_times_mean_nothing(tmp_path: Path) -> None:
    """A wall clock that jumps by a year changes the times of files, and nothing else."""
    import os

    clock = Clock()
    mine = Leases(ttl_s=30, clock=clock)
    _write(tmp_path, elsewhere())
    for when in (0, 4_000_000_000):
        os.utime(tmp_path / "lease.json", (when, when))
        with pytest.raises(LeaseHeldError):
            mine.acquire(tmp_path, "a")


def test_lost_lease_is_neither_beaten_nor_released(tmp_path: Path) -> None:
    mine = Leases()
    token = mine.acquire(tmp_path, "a")
    mine.heartbeat()
    lease = read_lease(tmp_path)
    assert lease is not None and lease.heartbeat == 1 and lease.token == token
    _write(tmp_path, elsewhere(5))
    mine.heartbeat()
    mine.release(tmp_path)
    assert read_lease(tmp_path) == elsewhere(5)


def test_context_beats_and_releases(tmp_path: Path) -> None:
    import time

    with Leases(ttl_s=0.3) as mine:
        mine.acquire(tmp_path, "a")
        deadline = time.monotonic() + 10
        while (lease := read_lease(tmp_path)) is not None and lease.heartbeat < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert read_lease(tmp_path) is None
