"""Conditional writes of Azure (azurite) and GCS (fake-gcs-server); `test_remote.py` tests those of S3."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import fsspec
import pytest

from cluster.errors import LeaseHeldError, LeaseLostError, StepFailedError, StoreError, StoreUnreachableError
from cluster.store import object_store, retries, sole_driver
from cluster.store.base import Store
from cluster.store.lease import Lease, Leases, Owner
from cluster.store.location import open_store
from cluster.store.remote import RemoteStore
from tests.support.object_servers import Azurite, FakeGcsServer, azurite, fake_gcs_server
from tests.support.paths import ROOT
from tests.support.s3_helpers import Proxy, check_silent_server, failing
from tests.support.store_helpers import FINGERPRINT, OTHER, begin, builder, commit

pytestmark = pytest.mark.timeout(120)
Server = Azurite | FakeGcsServer
NUM_DRIVERS = 8
T = TypeVar("T")


@pytest.fixture(scope="module", params=[azurite, fake_gcs_server], ids=["azure", "gcs"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server on this machine."""
    with request.param() as started:
        yield started


def use(server: Server, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stores use the server, or a proxy in front of it, at a port."""
    for name, value in server.environment(port).items():
        monkeypatch.setenv(name, value)
    # fsspec returns file systems of earlier tests, which use other ports
    fsspec.get_filesystem_class("abfs").clear_instance_cache()
    object_store._CONDITIONAL.clear()


@pytest.fixture
def url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store. Pauses between attempts are short."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(retries.VARIABLE, "2")
    monkeypatch.setattr(retries, "PAUSE_S", 0.01)
    monkeypatch.setattr(retries, "REQUEST_S", 1.0)
    use(server, server.port, monkeypatch)
    return server.create(f"results-{uuid.uuid4().hex}")


@pytest.fixture
def proxy(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of the server, which stores use."""
    proxy = Proxy(server.port)
    use(server, proxy.port, monkeypatch)
    yield proxy
    proxy.close()


def opened(url: str) -> RemoteStore:
    store = open_store(url)
    assert isinstance(store, RemoteStore)
    return store


def at_once(url: str, enter: Callable[[RemoteStore], T], number: int = NUM_DRIVERS) -> list[T]:
    """Calls a function at the same moment in threads that represent drivers on other machines."""
    start = threading.Barrier(number)
    results: list[T] = []

    def run() -> None:
        store = opened(url)
        start.wait()
        results.append(enter(store))

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def acquire(store: Store, leases: Leases | None = None) -> str:
    try:
        return (leases or Leases()).acquire(store.slot("pet/x", FINGERPRINT), "pet/x")
    except LeaseHeldError:
        return "held"


def test_update_of_an_object_that_changed_is_refused(url: str) -> None:
    objects = opened(url).objects
    assert objects.has_conditional_writes
    assert objects.read_tagged("a") == (None, None)
    assert objects.compare_and_swap("a", None, b"1")
    assert not objects.compare_and_swap("a", None, b"2")
    content, first = objects.read_tagged("a")
    assert content == b"1" and first is not None
    assert not objects.compare_and_swap("b", first, b"2"), "an object that does not exist has no tag"
    assert objects.compare_and_swap("a", first, b"1")
    second = objects.read_tagged("a")[1]
    assert second not in (None, first), "the same content written again has another tag"
    assert not objects.compare_and_swap("a", first, b"3")
    objects.remove("a")
    assert not objects.compare_and_swap("a", second, b"4")
    assert objects.read_tagged("a") == (None, None)
    with pytest.raises(FileNotFoundError):
        objects.read("a")


def test_one_of_many_writers_succeeds(url: str) -> None:
    objects = opened(url).objects
    assert objects.has_conditional_writes
    for round_number in range(20):
        name = f"round {round_number}"
        for tag in (None, "of the first write"):
            old = tag and objects.read_tagged(name)[1]

            def write(store: RemoteStore, old: str | None = old, name: str = name) -> bytes:
                data = uuid.uuid4().bytes
                return data if store.objects.compare_and_swap(name, old, data) else b""

            written = [data for data in at_once(url, write) if data]
            assert written == [objects.read(name)]


def test_one_of_many_processes_acquires_the_lease(url: str, tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from cluster.errors import LeaseHeldError
from cluster.store.lease import Leases
from cluster.store.location import open_store
url, fingerprint, folder, number = sys.argv[1:]
slot = open_store(url).slot("pet/x", fingerprint)
slot.read()
(Path(folder) / number).touch()
while not (Path(folder) / "start").exists():
    time.sleep(0.001)
try:
    print(Leases().acquire(slot, "pet/x"), flush=True)
except LeaseHeldError:
    print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, url, FINGERPRINT, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([*command, str(n)], stdin=pipe, stdout=pipe, text=True) for n in range(4)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("[0-9]"))) < len(processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "start").touch()
    # a process keeps running until all have answered, because the lease of a dead process is free
    printed = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate()
    lease = opened(url).slot("pet/x", FINGERPRINT).read()
    assert lease is not None and sorted(printed) == sorted([lease.token, *["held"] * 3])


def test_one_of_many_drivers_takes_over_an_expired_lease(url: str) -> None:
    now = [0.0]
    theirs = Lease(owner=replace(Owner.current(), host="far", namespace="far"), token="theirs")
    slot = opened(url).slot("pet/x", FINGERPRINT)
    assert slot.compare_and_swap(None, theirs)
    drivers = [Leases(ttl_s=30, clock=lambda: now[0]) for _ in range(NUM_DRIVERS)]

    def acquire_at(seconds: float) -> list[str]:
        now[0] = seconds
        remaining = list(drivers)
        return at_once(url, lambda store: acquire(store, remaining.pop()))

    for seconds in (0, 30):
        assert acquire_at(seconds) == ["held"] * NUM_DRIVERS
    tokens = acquire_at(31)
    lease = slot.read()
    assert lease is not None and sorted(tokens) == sorted([lease.token, *["held"] * (NUM_DRIVERS - 1)])
    # the first owner can neither renew nor release the lease that it lost
    assert not slot.compare_and_swap("theirs", replace(theirs, heartbeat=9))
    assert not slot.compare_and_swap("theirs", None)
    assert slot.read() == lease


def test_heartbeats_keep_the_lease(url: str) -> None:
    store, leases = opened(url), Leases()
    token = acquire(store, leases)
    leases.heartbeat()
    lease = opened(url).lease("pet/x", FINGERPRINT)
    assert lease is not None and (lease.token, lease.heartbeat) == (token, 1)
    leases.release(store.slot("pet/x", FINGERPRINT))
    assert store.lease("pet/x", FINGERPRINT) is None


def test_late_commit_does_not_overwrite_the_result_of_another_driver(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other driver committed and released its lease while this one was suspended."""
    store = opened(url)
    staged = begin(store, Leases(), text="late")
    lease = store.slot("pet/x", FINGERPRINT).read()
    store.objects.remove(f"pet/x/{FINGERPRINT}/lease.json")
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    commit(opened(url), text="early")
    store.objects.remove(f"pet/x/{FINGERPRINT}/lease.json")
    assert lease is not None and store.slot("pet/x", FINGERPRINT).compare_and_swap(None, lease)
    with pytest.raises(LeaseLostError):
        staged.commit({}, builder())
    assert (store.files("pet/x", FINGERPRINT) / "sub" / "model.bin").read_text() == "early"


def test_results_are_read_on_another_machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(url)
    manifest = commit(store)
    commit(store, OTHER)
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    other = opened(url)
    assert str(other.lookup("pet/x", FINGERPRINT, verify=True)) == str(manifest)
    folder = other.files("pet/x", FINGERPRINT)
    assert folder.is_relative_to(tmp_path / "another machine")
    assert (folder / "sub" / "model.bin").read_text() == "hello"
    assert other.fingerprints("pet/x") == [FINGERPRINT, OTHER] and other.fingerprints("pet/y") == []
    times = [item.written_at for item in other.objects.list_below("pet/x").values()]
    assert times and all(abs(time.time() - written_at) < 60 for written_at in times)
    failure = StepFailedError("pet/x", "ValueError: no", remedy="Do.", trace="t", log="l", attempt=3)
    store.record_failure(FINGERPRINT, failure)
    kept = other.failure("pet/x", FINGERPRINT)
    assert kept is not None and vars(kept) == vars(failure)
    other.delete("pet/x", FINGERPRINT)
    assert store.fingerprints("pet/x") == [OTHER] and store.objects.children("pet/x") == [OTHER]
    commit(store)
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None


def test_copies_and_checkpoints_are_stored(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(url)
    source = commit(store)
    leases = Leases()
    token = leases.acquire(store.slot("pet/x", OTHER), "pet/x")
    store.adopt(source, replace(source, fingerprint=OTHER), token)
    leases.release(store.slot("pet/x", OTHER))
    assert store.lookup("pet/x", OTHER, verify=True) is not None
    third = "c" * 64
    staged = begin(store, leases, third)
    (staged.checkpoint_dir / "step.pt").write_text("half")
    staged.discard()
    leases.release(store.slot("pet/x", third))
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    assert (begin(opened(url), leases, third).checkpoint_dir / "step.pt").read_text() == "half"


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_two_drivers_with_workers_of_their_own_run_each_step_once(url: str, tmp_path: Path) -> None:
    code = """
import json, sys
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.steps import toy

data = toy("data", 1, pause_s=1.0)
parts = tuple(toy(f"part/{index}", index, base=data, pause_s=0.5) for index in range(6))
result = execute([toy("end", 100, parts=parts)], open_store(sys.argv[1]), RunOptions(engine=ENGINE, num_cpus=1))
print(json.dumps([result.executed, result.cached, result.manifests["end"].result["total"]]))
"""
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "CLOZELINE_CACHE": str(tmp_path / name),
                retries.VARIABLE: "60",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    ]
    printed = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    (executed, cached, total), (others, other_cached, other_total) = (json.loads(text) for text in printed)
    assert sorted([*executed, *others]) == sorted(["data", "end", *(f"part/{index}" for index in range(6))])
    assert set(cached) == set(others) and set(other_cached) == set(executed)
    assert total == other_total == 121


@pytest.mark.parametrize("part", ["lease.json", "manifest.json"])
def test_write_with_a_lost_response_succeeds(url: str, proxy: Proxy, part: str) -> None:
    """The server wrote but its response was lost, so the retried conditional write finds its own first write."""
    store = opened(url)
    commit(store, OTHER)
    lost: list[str] = []

    def fault(method: str, path: str) -> int | None:
        is_write = (method == "PUT" and part in path) or (method == "POST" and "ifGenerationMatch" in path)
        if lost or not is_write:
            return None
        lost.append(path)
        return 500

    proxy.fail_after = fault
    commit(store)
    assert lost
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    assert store.lease("pet/x", FINGERPRINT) is None


def test_failed_requests_are_retried(url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retries.VARIABLE, "60")
    store = opened(url)
    proxy.fail_before = failing(3, 503, part="lease.json")
    acquire(store)
    assert store.lease("pet/x", FINGERPRINT) is not None


def test_server_that_keeps_failing_raises_a_transient_error(url: str, proxy: Proxy) -> None:
    store = opened(url)
    slot = store.slot("pet/x", FINGERPRINT)
    slot.read()
    proxy.fail_before = failing(10**9, 503)
    started = time.monotonic()
    with pytest.raises(StoreUnreachableError, match=r"is unreachable: \d+ attempts to read .* within \d+ s") as caught:
        slot.read()
    assert caught.value.transient
    assert time.monotonic() - started < 10, "the clients' own retries take longer than the budget"


def test_heartbeats_survive_a_server_that_does_not_answer(url: str, proxy: Proxy) -> None:
    check_silent_server(opened(url).slot("pet/x", FINGERPRINT), proxy)


def test_refused_request_is_not_retried(url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retries.VARIABLE, "60")
    store = opened(url)
    proxy.fail_before = failing(10**9, 403)
    for action in (lambda: acquire(store), lambda: store.fingerprints("pet/x"), lambda: store.write("a", b"")):
        before = len(proxy.requests)
        with pytest.raises(StoreError, match="refuses to") as caught:
            action()
        assert not isinstance(caught.value, StoreUnreachableError)
        assert len(proxy.requests) - before == 1


def test_missing_bucket_is_named(url: str) -> None:
    store = open_store(url.replace("results-", "missing-"))
    with pytest.raises(StoreError, match=r"does not exist .*Create the bucket or container"):
        commit(store)


def test_server_that_ignores_conditions_accepts_a_single_driver(
    url: str, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.stripped = server.conditions
    monkeypatch.setattr(object_store, "_IN_PROCESS", nullcontext())
    monkeypatch.setattr(sole_driver, "SETTLE_S", 1.0)
    done = threading.Event()

    def enter(store: RemoteStore) -> str:
        try:
            with sole_driver.sole_driver(store, Leases()):
                done.wait(5)
                return "entered"
        except StoreError as error:
            done.set()
            return error.problem

    assert not opened(url).accepts_many_drivers
    problems = at_once(url, enter, 4)
    assert problems.count("entered") == 1
    assert all(text == "entered" or "so it accepts a single driver" in text for text in problems)
