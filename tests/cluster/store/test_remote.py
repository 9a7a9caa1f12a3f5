"""A remote store on an S3 server: commits, leases and downloads."""

import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import (
    CorruptResultError,
    LeaseHeldError,
    LeaseLostError,
    StepFailedError,
    StoreError,
    StoreUnreachableError,
)
from cluster.steps.plan import PlanState, plan
from cluster.store import object_store, retries, sole_driver
from cluster.store.base import Store
from cluster.store.lease import Lease, Leases, Owner
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.store.remote import RemoteStore
from tests.support.s3_helpers import BUCKET, URL, Proxy, check_silent_server, failing, opened
from tests.support.steps import toy
from tests.support.store_helpers import FINGERPRINT, OTHER, begin, builder, commit

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(proxy: Proxy) -> RemoteStore:
    """An empty store on S3."""
    return opened()


def test_memory_url_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path))
    store = open_store("memory://somewhere")
    leases, others = Leases(), Leases()
    staged = begin(store, leases)
    with pytest.raises(LeaseHeldError):
        others.acquire(store.slot("pet/x", FINGERPRINT), "pet/x")
    staged.commit({}, builder())
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    store.delete("pet/x", FINGERPRINT)
    assert store.fingerprints("pet/x") == []


def test_lookup_finds_a_committed_result(store: RemoteStore, other_machine: RemoteStore) -> None:
    manifest = commit(store, metrics={"loss": float("nan")}, run_id="r1")
    for machine in (store, other_machine):
        result = machine.lookup("pet/x", FINGERPRINT, verify=True)
        assert result is not None and str(result) == str(manifest)
        folder = machine.files("pet/x", FINGERPRINT)
        assert folder.is_relative_to(machine.local)
        assert (folder / "sub" / "model.bin").read_text() == "hello"
        assert json.loads((folder / "result.json").read_text()) == {"score": 0.5}
    assert store.lookup("pet/x", OTHER) is None
    assert store.fingerprints("pet/x") == [FINGERPRINT] and store.fingerprints("pet/y") == []


def test_commit_uploads_the_manifest_last(store: RemoteStore, proxy: Proxy) -> None:
    commit(store)
    prefix = f"/{BUCKET}/some/store/pet/x/{FINGERPRINT}/"
    puts = [line.partition("?")[0] for line in proxy.requests if line.startswith(f"PUT {prefix}")]
    names = [line.removeprefix(f"PUT {prefix}") for line in puts if "lease.json" not in line]
    assert names[-1] == "manifest.json"
    assert sorted(name.rpartition("/")[2] for name in names[:-1]) == ["model.bin", "result.json"]


def test_plan_reads_only_the_latest_of_many_results(store: RemoteStore, proxy: Proxy) -> None:
    step = toy("x", 1)
    for number in range(30):
        fingerprint = f"{number:064x}"
        older = Manifest(step="x", fingerprint=fingerprint, key={}, files={}, upstream_digests={}, result=None)
        store.write(f"x/{fingerprint}/manifest.json", older.to_json())
    proxy.requests.clear()
    assert [line.state for line in plan([step], store)] == [PlanState.RUN]
    assert len(proxy.requests) <= 10, proxy.requests


def test_files_are_downloaded_once(store: RemoteStore, other_machine: RemoteStore, proxy: Proxy) -> None:
    def num_downloads(machine: Store) -> int:
        before = len(proxy.requests)
        machine.files("pet/x", FINGERPRINT)
        return sum("model.bin" in line for line in proxy.requests[before:])

    commit(store)
    assert num_downloads(store) == 0
    assert num_downloads(other_machine) > 0
    assert num_downloads(other_machine) == 0
    # A truncated file in the cache of this machine is downloaded again.
    (other_machine.files("pet/x", FINGERPRINT) / "sub" / "model.bin").write_text("hel")
    assert num_downloads(other_machine) > 0
    # A new result with the same fingerprint but other bytes is downloaded.
    commit(store, text="jello")
    assert num_downloads(other_machine) > 0
    assert (other_machine.files("pet/x", FINGERPRINT) / "sub" / "model.bin").read_text() == "jello"


def test_partial_download_is_never_used(store: RemoteStore, other_machine: RemoteStore, proxy: Proxy) -> None:
    manifest = commit(store)
    proxy.fail_before = failing(10**9, 503, "GET", "result.json")
    with pytest.raises(StoreError, match="is unreachable"):
        other_machine.files("pet/x", FINGERPRINT)
    assert not other_machine.cached(manifest).exists()
    proxy.fail_before = None
    assert sorted(item.name for item in other_machine.files("pet/x", FINGERPRINT).iterdir()) == ["result.json", "sub"]


@pytest.mark.parametrize(
    ("damage", "verify", "problem"),
    [
        (None, False, "is missing"),
        (b"hell", False, "has 4 bytes, expected 5"),
        (b"jello", True, "has changed content"),
    ],
)
def test_damaged_result_is_never_used(
    store: RemoteStore, other_machine: RemoteStore, damage: bytes | None, verify: bool, problem: str
) -> None:
    manifest = commit(store)
    name = f"pet/x/{FINGERPRINT}/{manifest.folder}/sub/model.bin"
    if damage is None:
        store.objects.remove(name)
    else:
        store.objects.write(name, damage)
    result = store.inspect("pet/x", FINGERPRINT, verify=verify)
    assert result.manifest is None and result.problems == (f"sub/model.bin {problem}",)
    with pytest.raises(CorruptResultError, match="the step reruns"):
        other_machine.files("pet/x", FINGERPRINT)
    assert not other_machine.cached(manifest).exists()
    commit(store)
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    assert len(store.objects.children(f"pet/x/{FINGERPRINT}/files")) == 2, "a step may read the replaced files"
    commit(store)
    assert f"pet/x/{FINGERPRINT}/{manifest.folder}" not in store.objects.sizes("")
    assert len(store.objects.children(f"pet/x/{FINGERPRINT}/files")) == 2


def test_heartbeats_survive_a_server_that_does_not_answer(store: RemoteStore, proxy: Proxy) -> None:
    check_silent_server(store.slot("pet/x", FINGERPRINT), proxy)


def test_acquire_fails_until_the_other_driver_releases(store: RemoteStore, other_machine: RemoteStore) -> None:
    first, second = Leases(), Leases()
    token = first.acquire(store.slot("pet/x", FINGERPRINT), "pet/x")
    lease = other_machine.lease("pet/x", FINGERPRINT)
    assert lease is not None and lease.token == token
    with pytest.raises(LeaseHeldError, match=r"is being run by \S+@\S+, process \d+, started 20"):
        second.acquire(other_machine.slot("pet/x", FINGERPRINT), "pet/x")
    first.heartbeat()
    lease = other_machine.lease("pet/x", FINGERPRINT)
    assert lease is not None and (lease.token, lease.heartbeat) == (token, 1)
    first.release(store.slot("pet/x", FINGERPRINT))
    assert store.lease("pet/x", FINGERPRINT) is None
    second.acquire(other_machine.slot("pet/x", FINGERPRINT), "pet/x")


def test_lease_expires_without_heartbeat(store: RemoteStore) -> None:
    now = [0.0]
    theirs = Lease(owner=replace(Owner.current(), host="far", namespace="far"), token="theirs")
    slot = store.slot("pet/x", FINGERPRINT)
    assert slot.compare_and_swap(None, theirs)
    leases = Leases(ttl_s=30, clock=lambda: now[0])
    for seconds in (0, 30):
        now[0] = seconds
        with pytest.raises(LeaseHeldError):
            leases.acquire(slot, "pet/x")
    now[0] = 31
    token = leases.acquire(slot, "pet/x")
    # The first owner can neither renew nor release the lease that it lost.
    assert not slot.compare_and_swap("theirs", replace(theirs, heartbeat=9)) and not slot.compare_and_swap(
        "theirs", None
    )
    assert (lease := slot.read()) is not None and lease.token == token


def outcomes_of_drivers(enter: Callable[[Store], str]) -> list[str]:
    """Calls a function at the same moment in threads that represent processes on other machines."""
    stores = [opened() for _ in range(4)]
    start = threading.Barrier(len(stores))
    outcomes: list[str] = []

    def run(machine: Store) -> None:
        start.wait()
        outcomes.append(enter(machine))

    threads = [threading.Thread(target=run, args=(machine,)) for machine in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_one_of_many_drivers_acquires_the_lease(store: RemoteStore) -> None:
    def acquire(machine: Store) -> str:
        try:
            return Leases().acquire(machine.slot("pet/x", FINGERPRINT), "pet/x")
        except LeaseHeldError:
            return "held"

    assert store.accepts_many_drivers
    outcomes = outcomes_of_drivers(acquire)
    lease = store.lease("pet/x", FINGERPRINT)
    assert lease is not None and sorted(outcomes) == sorted([lease.token, *["held"] * 3])


def test_server_that_ignores_conditions_accepts_a_single_driver(
    store: RemoteStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.stripped = ("if-none-match", "if-match")
    monkeypatch.setattr(object_store, "_IN_PROCESS", nullcontext())
    monkeypatch.setattr(sole_driver, "SETTLE_S", 2.0)
    done = threading.Event()

    def enter(machine: Store) -> str:
        try:
            with sole_driver.sole_driver(machine, Leases()):
                done.wait(5)
                return "entered"
        except StoreError as error:
            done.set()
            return f"{error.problem} {error.remedy}"

    assert not store.accepts_many_drivers
    outcomes = outcomes_of_drivers(enter)
    assert outcomes.count("entered") == 1
    for text in outcomes:
        assert text == "entered" or (
            "so it accepts a single driver" in text and "use a store in a folder or on S3" in text
        )
    with sole_driver.sole_driver(store, Leases()):
        assert store.slot("driver", "0" * 64).read() is not None


def test_commit_without_the_lease_fails(store: RemoteStore) -> None:
    leases = Leases()
    staged = begin(store, leases)
    store.objects.remove(f"pet/x/{FINGERPRINT}/lease.json")
    Leases().acquire(store.slot("pet/x", FINGERPRINT), "pet/x")
    with pytest.raises(LeaseLostError):
        staged.commit({}, builder())
    assert store.lookup("pet/x", FINGERPRINT) is None


def test_commit_does_not_overwrite_the_result_of_another_driver(store: RemoteStore, other_machine: RemoteStore) -> None:
    """The other driver committed and released its lease while this one was suspended."""
    leases = Leases()
    staged = begin(store, leases, text="late")
    lease = store.slot("pet/x", FINGERPRINT).read()
    store.objects.remove(f"pet/x/{FINGERPRINT}/lease.json")
    commit(other_machine, text="early")
    store.objects.remove(f"pet/x/{FINGERPRINT}/lease.json")
    assert lease is not None and store.slot("pet/x", FINGERPRINT).compare_and_swap(None, lease)
    with pytest.raises(LeaseLostError):
        staged.commit({}, builder())
    assert (store.files("pet/x", FINGERPRINT) / "sub" / "model.bin").read_text() == "early"


def test_failure_log_and_nearest_are_shared(store: RemoteStore, other_machine: RemoteStore) -> None:
    commit(store, "1" * 64, key={"rate": 1, "steps": 1}, committed_at=1.0)
    commit(store, "2" * 64, key={"rate": 2, "steps": 2}, committed_at=3.0)
    nearest = other_machine.nearest("pet/x", FINGERPRINT, {"rate": 1, "steps": 9})
    assert nearest is not None and nearest.fingerprint == "1" * 64
    log = store.log_path("pet/x", FINGERPRINT, 1)
    log.parent.mkdir(parents=True)
    log.write_text("printed")
    store.upload(log)
    assert store.uri_of(log) == f"{URL}/logs/pet/x/{FINGERPRINT[:12]}-1.log"
    assert other_machine.objects.read(f"logs/pet/x/{FINGERPRINT[:12]}-1.log") == b"printed"
    failure = StepFailedError("pet/x", "ValueError: no", remedy="Do.", trace="t", log=store.uri_of(log), attempt=3)
    store.record_failure(FINGERPRINT, failure)
    kept = other_machine.failure("pet/x", FINGERPRINT)
    assert kept is not None and vars(kept) == vars(failure)
    commit(store)
    assert other_machine.failure("pet/x", FINGERPRINT) is None
    other_machine.delete("pet/x", FINGERPRINT)
    assert store.objects.sizes("logs") == {} and store.fingerprints("pet/x") == ["1" * 64, "2" * 64]


def test_inspect_all_keeps_the_order(store: RemoteStore) -> None:
    for number in (1, 3):
        commit(store, str(number) * 64)
    result = store.inspect_all([("pet/x", str(number) * 64) for number in range(5)], verify=True)
    assert [item.manifest.fingerprint[0] if item.manifest else None for item in result] == [None, "1", None, "3", None]


def test_open_store_rejects_unusable_urls(proxy: Proxy) -> None:
    with pytest.raises(StoreError, match="Specify a folder or another URL"):
        open_store("nonsense://bucket/store")
    with pytest.raises(StoreError, match="Create the bucket"):
        commit(open_store("s3://nowhere/store"))


@pytest.mark.parametrize("status", [500, 503])
def test_failed_requests_are_retried(proxy: Proxy, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retries.VARIABLE, "60")
    proxy.fail_before = failing(3, status)
    store = opened()
    commit(store)
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None


@pytest.mark.parametrize("status", [500, 503])
def test_server_that_keeps_failing_raises_a_transient_error(proxy: Proxy, status: int) -> None:
    store = opened()
    commit(store)
    proxy.fail_before = failing(10**9, status)
    before = len(proxy.requests)
    with pytest.raises(StoreUnreachableError, match=r"is unreachable: \d+ attempts to read .* within \d+ s") as caught:
        store.lookup("pet/x", FINGERPRINT)
    assert "Run again when it answers" in caught.value.remedy
    assert caught.value.transient
    assert len(proxy.requests) - before > 2


@pytest.mark.parametrize("part", ["model.bin", "manifest.json"])
def test_failed_commit_leaves_no_result(proxy: Proxy, part: str) -> None:
    store = opened()
    leases = Leases()
    staged = begin(store, leases)
    proxy.fail_before = failing(10**9, 503, "PUT", part)
    with pytest.raises(StoreUnreachableError):
        staged.commit({}, builder())
    staged.discard()
    leases.release(store.slot("pet/x", FINGERPRINT))
    proxy.fail_before = None
    assert store.inspect("pet/x", FINGERPRINT).manifest is None and store.inspect("pet/x", FINGERPRINT).problems == ()
    commit(store)
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    assert len(store.objects.children(f"pet/x/{FINGERPRINT}/files")) == 1


@pytest.mark.parametrize("part", ["lease.json", "manifest.json"])
def test_write_with_a_lost_response_succeeds(proxy: Proxy, part: str) -> None:
    """The server wrote but its response was lost, so the retried conditional write finds its own first write."""
    store = opened()
    commit(store, "1" * 64)
    proxy.fail_after = failing(1, 500, "PUT", part)
    commit(store)
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    assert store.lease("pet/x", FINGERPRINT) is None
