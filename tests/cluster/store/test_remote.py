"""A store behind a URL, on a real S3 server: commits, leases, checkpoints, and what is fetched."""

import json
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import CorruptResultError, LeaseHeldError, LeaseLostError, StepFailedError, StoreError
from cluster.store import checkpoints, object_store
from cluster.store.base import Store
from cluster.store.lease import Lease, Leases, Owner
from cluster.store.location import open_store
from cluster.store.remote import RemoteStore
from tests.support.paths import ROOT
from tests.support.s3_helpers import BUCKET, FP, URL, Proxy, begin, builder, commit, failing, opened

pytestmark = pytest.mark.timeout(60)
OTHER = "b" * 64


@pytest.fixture
def store(proxy: Proxy) -> RemoteStore:
    """An empty store on S3."""
    return opened()


@pytest.fixture
def elsewhere(store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    """The same store as another machine sees it."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    return opened()


def test_memory_is_a_store_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path))
    store = open_store("memory://somewhere")
    leases, others = Leases(), Leases()
    draft = begin(store, leases)
    with pytest.raises(LeaseHeldError):
        others.acquire(store.slot("pet/x", FP), "pet/x")
    draft.commit({}, builder())
    assert store.lookup("pet/x", FP, verify=True) is not None
    store.delete("pet/x", FP)
    assert store.fingerprints("pet/x") == []


def test_committed_result_is_found_with_its_files(store: RemoteStore, elsewhere: RemoteStore) -> None:
    manifest = commit(store, metrics={"loss": float("nan")}, run_id="r1")
    for one in (store, elsewhere):
        found = one.lookup("pet/x", FP, verify=True)
        assert found is not None and str(found) == str(manifest)
        folder = one.files("pet/x", FP)
        assert folder.is_relative_to(one.local)
        assert (folder / "sub" / "model.bin").read_text() == "hello"
        assert json.loads((folder / "result.json").read_text()) == {"score": 0.5}
    assert store.lookup("pet/x", OTHER) is None
    assert store.fingerprints("pet/x") == [FP] and store.fingerprints("pet/y") == []


def test_manifest_goes_up_last(store: RemoteStore, proxy: Proxy) -> None:
    commit(store)
    ours = f"/{BUCKET}/some/store/pet/x/{FP}/"
    puts = [line.partition("?")[0] for line in proxy.requests if line.startswith(f"PUT {ours}")]
    names = [line.removeprefix(f"PUT {ours}") for line in puts if "lease.json" not in line]
    assert names[-1] == "manifest.json"
    assert sorted(name.rpartition("/")[2] for name in names[:-1]) == ["model.bin", "result.json"]


def test_files_are_fetched_once_and_not_at_all_where_they_were_made(
    store: RemoteStore, elsewhere: RemoteStore, proxy: Proxy
) -> None:
    def fetched(one: Store) -> int:
        before = len(proxy.requests)
        one.files("pet/x", FP)
        return sum("model.bin" in line for line in proxy.requests[before:])

    commit(store)
    assert fetched(store) == 0
    assert fetched(elsewhere) > 0
    assert fetched(elsewhere) == 0
    # A file that was cut short on this machine's own disk is fetched again.
    (elsewhere.files("pet/x", FP) / "sub" / "model.bin").write_text("hel")
    assert fetched(elsewhere) > 0
    # A result made anew with other bytes is another one.
    commit(store, text="jello")
    assert fetched(elsewhere) > 0
    assert (elsewhere.files("pet/x", FP) / "sub" / "model.bin").read_text() == "jello"


def test_half_a_download_is_never_used(store: RemoteStore, elsewhere: RemoteStore, proxy: Proxy) -> None:
    manifest = commit(store)
    proxy.verdict = failing(10**9, 503, "GET", "result.json")
    with pytest.raises(StoreError, match="out of reach"):
        elsewhere.files("pet/x", FP)
    assert not elsewhere.cached(manifest).exists()
    proxy.verdict = None
    assert sorted(item.name for item in elsewhere.files("pet/x", FP).iterdir()) == ["result.json", "sub"]


@pytest.mark.parametrize(
    ("damage", "verify", "problem"),
    [
        (None, False, "is missing"),
        (b"hell", False, "has 4 bytes and should have 5"),
        (b"jello", True, "has other content than was written"),
    ],
)
def test_damaged_result_is_no_hit_and_never_read(
    store: RemoteStore, elsewhere: RemoteStore, damage: bytes | None, verify: bool, problem: str
) -> None:
    manifest = commit(store)
    name = f"pet/x/{FP}/{manifest.folder}/sub/model.bin"
    if damage is None:
        store.objects.remove(name)
    else:
        store.objects.write(name, damage)
    found = store.inspect("pet/x", FP, verify=verify)
    assert found.manifest is None and found.problems == (f"sub/model.bin {problem}",)
    with pytest.raises(CorruptResultError, match="made anew"):
        elsewhere.files("pet/x", FP)
    assert not elsewhere.cached(manifest).exists()
    commit(store)
    assert store.lookup("pet/x", FP, verify=True) is not None
    # Nothing of the first attempt is left.
    assert len(store.objects.children(f"pet/x/{FP}/files")) == 1


def test_second_driver_is_refused_until_the_first_gives_it_back(store: RemoteStore, elsewhere: RemoteStore) -> None:
    first, second = Leases(), Leases()
    token = first.acquire(store.slot("pet/x", FP), "pet/x")
    lease = elsewhere.lease("pet/x", FP)
    assert lease is not None and lease.token == token
    with pytest.raises(LeaseHeldError, match=r"is being run by process \d+ on "):
        second.acquire(elsewhere.slot("pet/x", FP), "pet/x")
    first.heartbeat()
    lease = elsewhere.lease("pet/x", FP)
    assert lease is not None and (lease.token, lease.heartbeat) == (token, 1)
    first.release(store.slot("pet/x", FP))
    assert store.lease("pet/x", FP) is None
    second.acquire(elsewhere.slot("pet/x", FP), "pet/x")


def test_silent_owner_expires_by_the_observers_clock(store: RemoteStore) -> None:
    now = [0.0]
    theirs = Lease(owner=replace(Owner.current(), host="far", namespace="far"), token="theirs")
    slot = store.slot("pet/x", FP)
    assert slot.compare_and_swap(None, theirs)
    mine = Leases(ttl_s=30, clock=lambda: now[0])
    for moment in (0, 30):
        now[0] = moment
        with pytest.raises(LeaseHeldError):
            mine.acquire(slot, "pet/x")
    now[0] = 31
    token = mine.acquire(slot, "pet/x")
    # The first owner wakes up: it can neither beat nor give back what it lost.
    assert not slot.compare_and_swap("theirs", replace(theirs, heartbeat=9)) and not slot.compare_and_swap(
        "theirs", None
    )
    assert (lease := slot.read()) is not None and lease.token == token


@pytest.mark.parametrize("stripped", [(), ("if-none-match", "if-match")], ids=["conditions", "no conditions"])
def test_of_many_at_once_one_gets_the_lease(
    store: RemoteStore, proxy: Proxy, stripped: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a server that ignores conditions, where the last writer gets it."""
    proxy.stripped = stripped
    # The drivers of this test are threads, and stand for processes on other machines.
    monkeypatch.setattr(object_store, "_IN_PROCESS", nullcontext())
    monkeypatch.setattr(object_store, "SETTLE_S", 2.0)
    stores = [opened() for _ in range(4)]
    got: list[str] = []
    start = threading.Barrier(len(stores))

    def take(one: Store) -> None:
        start.wait()
        try:
            got.append(Leases().acquire(one.slot("pet/x", FP), "pet/x"))
        except LeaseHeldError:
            return

    threads = [threading.Thread(target=take, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lease = store.lease("pet/x", FP)
    assert lease is not None and got == [lease.token]


def test_commit_without_the_lease_is_refused(store: RemoteStore) -> None:
    leases = Leases()
    draft = begin(store, leases)
    store.objects.remove(f"pet/x/{FP}/lease.json")
    Leases().acquire(store.slot("pet/x", FP), "pet/x")
    with pytest.raises(LeaseLostError):
        draft.commit({}, builder())
    assert store.lookup("pet/x", FP) is None


def test_commit_of_another_driver_is_not_overwritten(store: RemoteStore, elsewhere: RemoteStore) -> None:
    """It came and went while this one slept; its lease is gone, its result is there."""
    leases = Leases()
    draft = begin(store, leases, text="late")
    mine = store.slot("pet/x", FP).read()
    store.objects.remove(f"pet/x/{FP}/lease.json")
    commit(elsewhere, text="early")
    store.objects.remove(f"pet/x/{FP}/lease.json")
    assert mine is not None and store.slot("pet/x", FP).compare_and_swap(None, mine)
    with pytest.raises(LeaseLostError):
        draft.commit({}, builder())
    assert (store.files("pet/x", FP) / "sub" / "model.bin").read_text() == "early"


def test_failure_log_and_nearest_are_seen_everywhere(store: RemoteStore, elsewhere: RemoteStore) -> None:
    commit(store, "1" * 64, key={"rate": 1, "steps": 1}, committed=1.0)
    commit(store, "2" * 64, key={"rate": 2, "steps": 2}, committed=3.0)
    nearest = elsewhere.nearest("pet/x", FP, {"rate": 1, "steps": 9})
    assert nearest is not None and nearest.fingerprint == "1" * 64
    log = store.log_path("pet/x", FP, 1)
    log.parent.mkdir(parents=True)
    log.write_text("printed")
    store.upload(log)
    assert store.uri_of(log) == f"{URL}/logs/pet/x/{FP[:12]}-1.log"
    assert elsewhere.objects.read(f"logs/pet/x/{FP[:12]}-1.log") == b"printed"
    failure = StepFailedError("pet/x", "ValueError: no", remedy="Do.", trace="t", log=store.uri_of(log), attempt=3)
    store.record_failure(FP, failure)
    kept = elsewhere.failure("pet/x", FP)
    assert kept is not None and vars(kept) == vars(failure)
    commit(store)
    assert elsewhere.failure("pet/x", FP) is None
    elsewhere.delete("pet/x", FP)
    assert store.objects.sizes("logs") == {} and store.fingerprints("pet/x") == ["1" * 64, "2" * 64]


def test_checkpoints_go_on_on_another_machine(store: RemoteStore, elsewhere: RemoteStore) -> None:
    leases = Leases()
    draft = begin(store, leases)
    (draft.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    (draft.checkpoint_dir / "half.part").write_text("not yet a checkpoint")
    draft.discard()
    taken = elsewhere.begin("pet/x", FP, "another token")
    assert [item.name for item in taken.checkpoint_dir.iterdir()] == ["checkpoint.pt"]
    assert (taken.checkpoint_dir / "checkpoint.pt").read_text() == "step 10"
    (taken.checkpoint_dir / "checkpoint.pt").write_text("step 20, further on")
    taken.discard()
    # The first machine has an older checkpoint of its own, which does not count.
    again = store.begin("pet/x", FP, "a third token")
    assert (again.checkpoint_dir / "checkpoint.pt").read_text() == "step 20, further on"
    again.discard()
    leases.release(store.slot("pet/x", FP))
    commit(store)
    assert not any("work" in name for name in store.objects.sizes(f"pet/x/{FP}"))


def test_checkpoints_go_up_while_the_step_runs(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_S", 0.02)
    draft = begin(store, Leases())
    (draft.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    deadline = time.monotonic() + 30
    names: list[str] = []
    while not names and time.monotonic() < deadline:
        names = [name for name in store.objects.sizes(f"pet/x/{FP}") if name.startswith("work/")]
    draft.discard()
    assert names, "nothing went up before the step ended"


def test_damaged_checkpoint_is_left_out(store: RemoteStore, elsewhere: RemoteStore) -> None:
    draft = begin(store, Leases())
    (draft.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    draft.discard()
    (name,) = store.objects.sizes(f"pet/x/{FP}/work")
    store.objects.write(f"pet/x/{FP}/work/{name}", b"step 1")
    taken = elsewhere.begin("pet/x", FP, "another token")
    assert list(taken.checkpoint_dir.iterdir()) == []
    taken.discard()


def test_looking_up_many_keeps_their_order(store: RemoteStore) -> None:
    for number in (1, 3):
        commit(store, str(number) * 64)
    found = store.inspect_all([("pet/x", str(number) * 64) for number in range(5)], verify=True)
    assert [item.manifest.fingerprint[0] if item.manifest else None for item in found] == [None, "1", None, "3", None]


def test_addresses_that_cannot_be_used_say_so(proxy: Proxy) -> None:
    with pytest.raises(StoreError, match="Give a folder or a URL"):
        open_store("nonsense://bucket/store")
    with pytest.raises(StoreError, match="Make the bucket"):
        commit(open_store("s3://nowhere/store"))


DRIVER = """
import sys
from tests.support.steps import toy
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from cluster.store.base import Store

data = toy("data", 1)
parts = tuple(toy(f"pet/p/{index}", index, base=data) for index in range(2))
leaves = [toy("ensemble", 100, parts=parts), *(toy(name, fail="error") for name in sys.argv[2:])]
outcome = execute(leaves, open_store(sys.argv[1]), Options(keep_going=True, num_cpus=2))
print(sorted(outcome.executed), sorted(outcome.cached), outcome.manifests["ensemble"].result["total"])
print(*(error.log for error in outcome.errors.values()))
"""


@pytest.mark.timeout(240)
def test_a_pipeline_runs_on_it_and_another_machine_takes_its_results(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    toys = str(ROOT)
    monkeypatch.setenv("PYTHONPATH", toys)

    def drive(*bad: str) -> list[str]:
        done = subprocess.run([sys.executable, "-c", DRIVER, URL, *bad], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first, log = drive("bad")
    assert first == "['data', 'ensemble', 'pet/p/0', 'pet/p/1'] [] 103"
    assert log.startswith(f"{URL}/logs/bad/")
    assert b"printed by another program" in store.objects.read(log.removeprefix(f"{URL}/"))
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    assert drive()[0] == "[] ['data', 'ensemble', 'pet/p/0', 'pet/p/1'] 103"
