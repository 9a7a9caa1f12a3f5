"""Faults of disks, clocks and servers: damaged results are never used, and the next run completes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import LeaseHeldError, LeaseLostError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import PlanState, plan
from cluster.store.base import Store
from cluster.store.lease import Leases, Owner
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from stages.common.engine import ENGINE
from tests.support.paths import ROOT
from tests.support.s3_helpers import URL, Proxy, failing, opened
from tests.support.steps import large, toy
from tests.support.store_helpers import FINGERPRINT, STEP, begin, builder

pytestmark = pytest.mark.timeout(120)
QUICK = RunOptions(engine=ENGINE, backoff_s=0.05, poll_s=0.05)
MB = 1 << 20


def drop(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 40)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("damage", "verify", "reason"),
    [
        (drop, False, "more/note.txt is missing"),
        (truncate, False, "more/note.txt has 40 bytes, expected 100"),
        (flip_a_bit, True, "more/note.txt has changed content"),
    ],
)
def test_only_the_damaged_step_reruns(
    store: Store, tmp_path: Path, damage: Callable[[Path], None], verify: bool, reason: str
) -> None:
    counter = tmp_path / "calls"
    base = toy("base", 1, counter=str(counter))
    leaf = toy("leaf", 2, base=base, counter=str(counter))
    options = RunOptions(engine=ENGINE, verify=verify, poll_s=0.05)
    first = execute([leaf], store, options)

    def note() -> Path:
        return store.files("base", first.steps["base"].fingerprint) / "more" / "note.txt"

    damage(note())
    planned = plan([leaf], store, options)[0]
    assert (planned.state, planned.reasons) == (PlanState.RUN, (f"output files damaged: {reason}",))
    second = execute([leaf], store, options)
    assert (second.executed, second.cached) == (("base",), ("leaf",))
    assert note().read_text() == "x" * 100
    assert len(counter.read_bytes()) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 16 MB, if this user may mount one; else None."""
    folder = tmp_path / "disk"
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*sudo, "mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", str(folder)]
    if shutil.which(mount[0]) is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    yield folder
    subprocess.run([*sudo, "umount", "--lazy", str(folder)], check=True)


def assert_full(result: RunResult) -> None:
    error = result.errors["large"]
    assert "No space left on device" in error.error
    assert "Free some disk space" in error.remedy and not error.transient


@pytest.mark.usefixtures("ray_session")
def test_full_disk_fails_the_step_and_the_next_run_completes(small_disk: Path | None, tmp_path: Path) -> None:
    """Uses a small disk, or /dev/full if no disk can be mounted."""
    store = open_store((small_disk or tmp_path) / "store")
    ballast = (small_disk or tmp_path) / "ballast"
    ballast.write_bytes(b"x" * 12 * MB)
    step = large("large", 8 * MB, full_disk=None if small_disk else ballast)
    assert execute([toy("before")], store, QUICK).ok
    failed = execute([toy("before"), step], store, QUICK)
    assert_full(failed)
    assert failed.cached == ("before",)
    planned = plan([step], store)[0]
    folder = Path(store.url) / "large" / planned.fingerprint
    # The files that did fit were removed, which freed their space.
    assert not (folder / "files").exists() and not list(folder.glob("*.part"))
    failure = store.failure("large", planned.fingerprint)
    assert failure is not None and "No space left" in failure.error
    ballast.unlink()
    result = execute([toy("before"), step], store, QUICK)
    assert result.ok and result.executed == ("large",) and result.cached == ("before",)
    assert store.lookup("large", planned.fingerprint, verify=True) is not None


@pytest.mark.usefixtures("ray_session")
def test_disk_without_space_for_a_lease_fails_the_step(small_disk: Path | None, tmp_path: Path) -> None:
    """No file fits on the disk. If no disk can be mounted, the store is a file."""
    root = (small_disk or tmp_path) / "store"
    store = open_store(root)
    ballast = root.parent / "ballast"
    step = large("large", MB)
    if small_disk:
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
            while file.write(b"x" * 4096):
                pass
        assert_full(execute([step], store, QUICK))
        ballast.unlink()
    else:
        root.write_text("a file")
        assert "Free some disk space, or correct" in execute([step], store, QUICK).errors["large"].remedy
        root.unlink()
    assert execute([step], store, QUICK).executed == ("large",)


def test_clock_changes_affect_neither_leases_nor_commits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    year = 365 * 24 * 3600.0
    offset = [0.0]
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(offset[0] * 1e9))
    slot = store.slot("pet/x", FINGERPRINT)
    with Leases(ttl_s=2.0) as first:
        token = first.acquire(slot, "pet/x")
        second = Leases(ttl_s=2.0)
        # Without a heartbeat the lease would be expired.
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            for offset[0] in (0.0, year, -year, 10 * year):
                with pytest.raises(LeaseHeldError):
                    second.acquire(slot, "pet/x")
        staged = store.begin("pet/x", FINGERPRINT, token)
        staged.commit({}, builder(committed_at=time.time()))
    offset[0] = -year
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    assert store.lease("pet/x", FINGERPRINT) is None


class JumpingClock:
    """Monotonic seconds of one driver, which jump."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("where", ["disk", "s3"])
@pytest.mark.parametrize("first_to_commit", ["the owner", "the other", "both at once"])
def test_one_result_is_committed_if_the_clock_of_leases_jumps(
    first_to_commit: str,
    where: str,
    store: Store,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver takes a step over that another one still runs, and both commit."""
    stores = {"the owner": store, "the other": open_store(store.url)}
    if where == "s3":
        request.getfixturevalue("proxy")
        stores["the owner"] = opened()
        monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
        stores["the other"] = store = opened()
    slot, clock = store.slot(STEP, FINGERPRINT), JumpingClock()
    owner, other = Leases(), Leases(clock=clock)
    owner.owner = replace(Owner.current(), host="far", namespace="far")
    staged = {"the owner": begin(stores["the owner"], owner, text="the owner")}
    with pytest.raises(LeaseHeldError):
        other.acquire(slot, STEP)
    clock.now += 3600
    staged["the other"] = begin(stores["the other"], other, text="the other")

    def commit_of(driver: str) -> Manifest | None:
        try:
            return staged[driver].commit({}, builder())
        except LeaseLostError:
            return None

    if first_to_commit == "both at once":
        with ThreadPoolExecutor(2) as pool:
            committed = dict(zip(staged, pool.map(commit_of, staged), strict=True))
    else:
        order = sorted(staged, key=lambda driver: driver != first_to_commit)
        committed = {driver: commit_of(driver) for driver in order}
    assert committed["the owner"] is None
    manifest = store.lookup(STEP, FINGERPRINT, verify=True)
    assert manifest is not None and manifest == committed["the other"]
    assert (store.files_of(manifest) / "sub" / "model.bin").read_text() == "the other"
    owner.heartbeat()
    lease = slot.read()
    assert lease is not None and lease.owner == other.owner, "the owner does not get its lease back"


DRIVER = """
import sys
from cluster.run import events
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.steps import toy

def on_event(event):
    if isinstance(event, events.StepFailed):
        print("failed", event.step, event.retry_in_s is not None, flush=True)
        print(event.error, file=sys.stderr)

steps = [toy("long", 1, pause_s=4.0), toy("next", 2, base=toy("short"))]
options = RunOptions(engine=ENGINE, backoff_s=0.05, poll_s=0.05, num_cpus=2)
result = execute(steps, open_store(sys.argv[1]), options, on_event=on_event)
print("executed", *sorted(result.executed), flush=True)
"""


@pytest.mark.timeout(400)
def test_outage_of_the_store_in_the_driver_ends_no_other_step(proxy: Proxy) -> None:
    """The manifest of one step cannot be read for longer than the budget; a step that runs is committed.

    The driver is a process of its own, because workers of a Ray that runs already lack the credentials.
    """
    refuse = failing(10**9, 503, part="/next/")

    def refuse_next_after_short(method: str, path: str) -> int | None:
        if method == "PUT" and "/short/" in path and path.endswith("manifest.json"):
            proxy.fail_before = refuse
        return None

    proxy.fail_before = refuse_next_after_short
    command = [sys.executable, "-c", DRIVER, URL]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None and driver.stderr is not None
        for line in driver.stdout:
            lines.append(line.strip())
            if line.startswith("failed"):
                proxy.fail_before = None
        problems = driver.stderr.read()
    assert "is unreachable" in problems and "Run again when it answers" in problems
    assert lines == ["failed next True", "executed long next short"]
