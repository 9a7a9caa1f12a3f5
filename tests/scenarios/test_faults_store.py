"""What disks, clocks and servers do to a store: nothing wrong is used, and the next run finishes."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.disk_helpers import large

from cluster.errors import LeaseHeldError, StepFailedError, StoreUnreachableError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.plan import PlanState, plan
from cluster.steps.step import Step
from cluster.store import object_store
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.location import open_store
from tests.support.s3_helpers import FP, Proxy, begin, builder, commit, failing, opened
from tests.support.steps import toy

pytestmark = pytest.mark.timeout(120)
QUICK = RunOptions(backoff_s=0.05, poll_s=0.05)
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
        (truncate, False, "more/note.txt has 40 bytes and should have 100"),
        (flip_a_bit, True, "more/note.txt has other content than was written"),
    ],
)
def test_damaged_output_is_made_anew_and_nothing_else(
    store: Store, tmp_path: Path, damage: Callable[[Path], None], verify: bool, reason: str
) -> None:
    counter = tmp_path / "calls"
    base = toy("base", 1, counter=str(counter))
    leaf = toy("leaf", 2, base=base, counter=str(counter))
    options = RunOptions(verify=verify, poll_s=0.05)
    first = execute([leaf], store, options)
    note = store.files("base", first.steps["base"].fingerprint) / "more" / "note.txt"
    damage(note)
    line = plan([leaf], store, options)[0]
    assert (line.state, line.reasons) == (PlanState.RUN, (f"output files damaged: {reason}",))
    second = execute([leaf], store, options)
    assert (second.executed, second.cached) == (("base",), ("leaf",))
    assert note.read_text() == "x" * 100
    assert len(counter.read_bytes()) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 16 MB, where this user may mount one; else None."""
    place = tmp_path / "disk"
    place.mkdir()
    lead = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*lead, "mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", str(place)]
    if shutil.which(mount[0]) is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    yield place
    subprocess.run([*lead, "umount", "--lazy", str(place)], check=True)


def assert_full(outcome: RunResult) -> None:
    error = outcome.errors[large]
    assert "No space left on device" in error.error
    assert "Free some space" in error.remedy and not error.transient


@pytest.mark.usefixtures("ray_session")
def test_full_disk_fails_the_step_and_the_next_run_finishes(small_disk: Path | None, tmp_path: Path) -> None:
    """On a real small disk, or with an output that leads to /dev/full where none can be mounted."""
    store = open_store((small_disk or tmp_path) / "store")
    ballast = (small_disk or tmp_path) / "ballast"
    ballast.write_bytes(b"x" * 12 * MB)
    step = large("large", 8 * MB, full=None if small_disk else ballast)
    assert execute([toy("before")], store, QUICK).ok
    failed = execute([toy("before"), step], store, QUICK)
    assert_full(failed)
    assert failed.cached == ("before",)
    line = plan([step], store)[0]
    place = store.files("large", line.fingerprint).parent
    # The files that did fit are gone, and with them what they took of the disk.
    assert not (place / "files").exists() and not list(place.glob("*.part"))
    kept = store.failure("large", line.fingerprint)
    assert kept is not None and "No space left" in kept.error
    ballast.unlink()
    outcome = execute([toy("before"), step], store, QUICK)
    assert outcome.ok and outcome.executed == ("large",) and outcome.cached == ("before",)
    assert store.lookup("large", line.fingerprint, verify=True) is not None


@pytest.mark.usefixtures("ray_session")
def test_disk_without_room_for_a_lease(small_disk: Path | None, tmp_path: Path) -> None:
    """Not even the smallest file fits; where no disk can be mounted, the folder takes no files."""
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
        root.write_text("in the way")
        assert "Free some space, or correct" in execute([step], store, QUICK).errors[large].remedy
        root.unlink()
    assert execute([step], store, QUICK).executed == ("large",)


def test_clock_that_jumps_neither_ends_a_lease_nor_spoils_a_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    year = 365 * 24 * 3600.0
    offset = [0.0]
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(offset[0] * 1e9))
    slot = store.slot("pet/x", FP)
    with Leases(ttl_s=2.0) as first:
        token = first.acquire(slot, "pet/x")
        second = Leases(ttl_s=2.0)
        # Longer than the lease would live without its beat.
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            for offset[0] in (0.0, year, -year, 10 * year):
                with pytest.raises(LeaseHeldError):
                    second.acquire(slot, "pet/x")
        draft = store.begin("pet/x", FP, token)
        draft.commit({}, builder(committed=time.time()))
    offset[0] = -year
    assert store.lookup("pet/x", FP, verify=True) is not None
    assert store.lease("pet/x", FP) is None


def test_manifest_of_an_older_format_is_remade_and_the_plan_says_why(store: Store) -> None:
    step = toy("old")
    line = plan([step], store)[0]
    leases = Leases()
    for fingerprint in (line.fingerprint, "0" * 64):
        draft = store.begin("old", fingerprint, leases.acquire(store.slot("old", fingerprint), "old"))
        draft.commit({}, builder(fingerprint))
        leases.release(store.slot("old", fingerprint))
        manifest = store.files("old", fingerprint).parent / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    reason = "made by another version: the manifest has format 0, and this version reads 1."
    assert plan([step], store)[0].reasons == (reason,)
    # Also if the fingerprints of that version were others.
    assert plan([toy("old", 1)], store)[0].reasons == (reason,)


# --- a server that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503])
def test_server_that_fails_for_a_while_is_asked_again(proxy: Proxy, status: int) -> None:
    proxy.verdict = failing(object_store.ATTEMPTS - 1, status)
    store = opened()
    commit(store)
    assert store.lookup("pet/x", FP, verify=True) is not None


@pytest.mark.parametrize("status", [500, 503])
def test_server_that_keeps_failing_is_an_error_that_may_pass(proxy: Proxy, status: int) -> None:
    store = opened()
    commit(store)
    proxy.verdict = failing(10**9, status)
    before = len(proxy.requests)
    with pytest.raises(
        StoreUnreachableError, match=f"out of reach: {object_store.ATTEMPTS} attempts to read"
    ) as caught:
        store.lookup("pet/x", FP)
    assert "Run again when it answers" in caught.value.remedy
    assert caught.value.transient
    assert len(proxy.requests) - before == object_store.ATTEMPTS


@pytest.mark.parametrize("part", ["model.bin", "manifest.json"])
def test_commit_that_breaks_off_leaves_no_result(proxy: Proxy, part: str) -> None:
    store = opened()
    leases = Leases()
    draft = begin(store, leases)
    proxy.verdict = failing(10**9, 503, "PUT", part)
    with pytest.raises(StoreUnreachableError):
        draft.commit({}, builder())
    draft.discard()
    leases.release(store.slot("pet/x", FP))
    proxy.verdict = None
    assert store.inspect("pet/x", FP).manifest is None and store.inspect("pet/x", FP).problems == ()
    commit(store)
    assert store.lookup("pet/x", FP, verify=True) is not None
    assert len(store.objects.children(f"pet/x/{FP}/files")) == 1


@pytest.mark.parametrize("part", ["lease.json", "manifest.json"])
def test_write_whose_answer_was_lost_is_recognised(proxy: Proxy, part: str) -> None:
    """The server wrote, then failed to say so: the repeated conditional write meets its own first one."""
    store = opened()
    commit(store, "1" * 64)
    proxy.after = failing(1, 500, "PUT", part)
    commit(store)
    assert store.lookup("pet/x", FP, verify=True) is not None
    assert store.lease("pet/x", FP) is None


def test_step_is_tried_again_when_the_store_was_away(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that cannot be taken is a failure that may pass, and its end says what to do. No Ray is started."""
    store = opened()
    step: Step = toy("away")
    proxy.verdict = failing(10**9, 503, "PUT", "lease.json")
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    outcome = execute([step], store, QUICK)
    error = outcome.errors["away"]
    assert isinstance(error, StepFailedError) and error.transient and "out of reach" in error.error
    assert "Run again when it answers" in error.remedy
