"""Removing stale results, but never those that a driver uses."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import LeaseHeldError, StoreError
from cluster.store import garbage
from cluster.store.base import Store
from cluster.store.files import remove
from cluster.store.garbage import active_run, collect_garbage, enter_recipe, entered_recipes, find_garbage
from cluster.store.lease import Leases, Owner
from cluster.store.local import LocalStore
from tests.support.s3_helpers import Proxy, failing, opened
from tests.support.store_helpers import builder, commit

pytestmark = pytest.mark.timeout(60)
NEW, OLD, OLDER = "a" * 64, "b" * 64, "c" * 64


def filled(store: Store) -> Store:
    """Adds a current result, a stale result and a failed attempt to a store."""
    commit(store, NEW)
    commit(store, OLD, text="x" * 1000)
    leases = Leases()
    staged = store.begin("pet/x", OLDER, leases.acquire(store.slot("pet/x", OLDER), "pet/x"))
    (staged.checkpoint_dir / "checkpoint.pt").write_text("half")
    staged.discard()
    leases.release(store.slot("pet/x", OLDER))
    log = store.log_path("pet/x", OLD, 1)
    log.parent.mkdir(parents=True)
    log.write_text("printed")
    store.upload(log)
    return store


class Clock:
    """Monotonic seconds that pauses move. `during_pause` is called in each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.during_pause: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.during_pause()


def removed_by(store: Store, clock: Clock | None = None, dropped: tuple[str, ...] = ()) -> list[str]:
    """Collects garbage without real pauses. Returns the fingerprints that were removed."""
    clock = clock or Clock()
    return [item.fingerprint for item in collect_garbage(store, dropped, Leases(clock=clock), clock.pause).removable]


def test_results_of_entered_recipes_are_needed(store: Store) -> None:
    filled(store)
    with pytest.raises(StoreError, match="no run has entered its recipe"):
        find_garbage(store)
    enter_recipe(store, "films", "seed: 0", {"pet/x": NEW})
    found = {item.fingerprint: item for item in find_garbage(store).removable}
    assert set(found) == {OLD, OLDER}
    assert found[OLD].num_bytes > 1000 > found[OLDER].num_bytes >= len("half")
    assert (found[OLD].owner, found[OLDER].committed_at) == ("", None)
    enter_recipe(store, "paper/films", "seed: 1", {"pet/x": OLD})
    assert [item.fingerprint for item in find_garbage(store).removable] == [OLDER], "step names never collide"
    assert set(entered_recipes(store)) == {"films", "paper/films"}
    assert [item.fingerprint for item in find_garbage(store, ["paper/films"]).removable] == [OLD, OLDER]
    with pytest.raises(StoreError, match=r"no run has entered a recipe books\. Drop one of films, paper/films"):
        find_garbage(store, ["books"])


def test_step_without_a_result_keeps_its_latest_one(store: Store) -> None:
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": "d" * 64})
    commit(store, OLDER, committed_at=5.0)
    assert [item.fingerprint for item in find_garbage(store).removable] == [NEW, OLD]


def test_collect_garbage_removes_results_and_their_logs(store: LocalStore) -> None:
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": NEW})
    enter_recipe(store, "books", "", {"pet/y": NEW})
    assert removed_by(store) == [OLD, OLDER]
    assert store.fingerprints("pet/x") == [NEW]
    assert store.lookup("pet/x", NEW, verify=True) is not None
    assert list((store.root / "logs").rglob("*.log")) == []
    assert removed_by(store, dropped=("films",)) == [NEW]
    assert set(entered_recipes(store)) == {"books"}
    # The folder of a step without results is removed.
    assert not (store.root / "pet").exists()


def test_collect_garbage_works_on_a_server(proxy: Proxy) -> None:
    store = opened()
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": NEW})
    assert removed_by(store) == [OLD, OLDER]
    assert store.fingerprints("pet/x") == [NEW]
    assert not [name for name in store.objects.sizes("") if OLD in name or OLDER in name]
    assert not [path for path in store.local.rglob("*") if OLD in str(path) and path.is_file()]
    deleted = [line for line in proxy.requests if line.startswith("DELETE") and OLD in line]
    assert "manifest.json" in deleted[0] and "lease.json" in deleted[-1]


def test_what_a_run_reads_is_never_removed(store: LocalStore) -> None:
    """The recipe was edited and run again since, and the earlier run has not read the result yet."""
    filled(store)
    with Leases() as driver, active_run(store, driver) as run:
        enter_recipe(store, "films", "", {"pet/x": NEW})
        clock = Clock()
        clock.during_pause = driver.heartbeat
        assert removed_by(store, clock) == [], "while a run is planned, it may read anything"
        run.keep({"pet/x": OLD})
        assert find_garbage(store).read[0].fingerprint == OLD
        assert removed_by(store, clock) == [OLDER]
        assert store.lookup("pet/x", OLD, verify=True) is not None
    assert store.notes("runs") == []
    assert removed_by(store) == [OLD]


def test_run_ends_without_an_error_while_the_store_fails(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its results are committed then."""
    monkeypatch.setattr(garbage, "LEAVE_S", 0.5)
    store = opened()
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": NEW})
    with Leases() as driver:
        with active_run(store, driver) as run:
            run.keep({"pet/x": NEW})
            proxy.fail_before = failing(10**9, 503)
        proxy.fail_before = None
    assert len(store.notes("runs")) == 1
    assert removed_by(store) == [OLD, OLDER]
    assert store.notes("runs") == [], "its entry expires"


def test_run_of_a_dead_driver_on_another_machine_protects_nothing(store: LocalStore) -> None:
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": NEW})
    far = Leases()
    far.owner = replace(Owner.current(), host="far", namespace="far")
    far.acquire(store.slot("runs", "f" * 64), "the run")
    far.acquire(store.slot("pet/x", OLDER), "pet/x")
    clock = Clock()
    clock.during_pause = far.heartbeat
    assert removed_by(store, clock) == [], "it is alive"
    assert removed_by(store, Clock()) == [OLD, OLDER], "its leases expire"
    assert store.notes("runs") == []


def test_running_step_is_kept(store: LocalStore) -> None:
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": NEW})
    driver, clock = Leases(), Clock()
    token = driver.acquire(store.slot("pet/x", OLDER), "pet/x")
    clock.during_pause = driver.heartbeat
    assert removed_by(store, clock) == [OLD]
    staged = store.begin("pet/x", OLDER, token)
    assert (staged.checkpoint_dir / "checkpoint.pt").read_text() == "half"
    staged.commit({}, builder(OLDER))


def test_lease_of_a_dead_process_is_ignored(store: LocalStore) -> None:
    filled(store)
    enter_recipe(store, "films", "", {"pet/x": NEW})
    leases = Leases()
    leases.owner = replace(Owner.current(), started="1")
    leases.acquire(store.slot("pet/x", OLD), "pet/x")
    assert removed_by(store) == [OLD, OLDER]


def test_collect_garbage_next_to_commits_leaves_complete_results(store: LocalStore) -> None:
    """Each commit exists or is removed, in any order, and no process fails because a folder disappears."""
    enter_recipe(store, "films", "", {"pet/y": NEW})
    failures: list[BaseException] = []
    stop = threading.Event()

    def collect_repeatedly() -> None:
        while not stop.is_set():
            try:
                collect_garbage(store, pause=lambda seconds: None)
            except BaseException as error:
                failures.append(error)

    collector = threading.Thread(target=collect_repeatedly)
    collector.start()
    num_commits = 0
    while num_commits < 30:
        try:
            commit(store, OLD)
        except LeaseHeldError:  # garbage collection holds it
            continue
        num_commits += 1
        result = store.inspect("pet/x", OLD)
        assert result.manifest is not None or store.inspect("pet/x", OLD).manifest is None
    stop.set()
    collector.join()
    assert failures == []
    commit(store, NEW)
    assert store.lookup("pet/x", NEW, verify=True) is not None


def test_lease_can_be_acquired_after_its_folder_was_removed(tmp_path: Path) -> None:
    """A folder that was removed while a process waited for its lock is created again."""
    store = LocalStore(tmp_path)
    slot = store.slot("pet/x", NEW)
    leases = Leases()
    leases.acquire(slot, "pet/x")
    store.delete("pet/x", NEW)
    leases.release(slot)
    leases.heartbeat()
    assert not slot.folder.exists()
    token = leases.acquire(slot, "pet/x")
    leases.heartbeat()
    lease = store.lease("pet/x", NEW)
    assert lease is not None and (lease.token, lease.heartbeat) == (token, 1)


@pytest.fixture(params=["disk", "server"])
def any_store(request: pytest.FixtureRequest, store: Store) -> Store:
    """A store in a folder, or on a server."""
    if request.param == "disk":
        return store
    request.getfixturevalue("proxy")
    return opened()


def test_replaced_files_are_removed_after_the_grace_period(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("first", "second"):
        commit(any_store, NEW, text=text, committed_at=time.time())
    enter_recipe(any_store, "films", "", {"pet/x": NEW})
    assert removed_by(any_store) == [], "a command may still read what was replaced a moment ago"
    later = time.time() + garbage.GRACE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    found = find_garbage(any_store).removable
    assert [(item.fingerprint, item.is_leftover) for item in found] == [(NEW, True)] and found[0].num_bytes > 0
    assert removed_by(any_store) == [NEW]
    assert removed_by(any_store) == []
    manifest = any_store.lookup("pet/x", NEW, verify=True)
    assert manifest is not None and (any_store.files_of(manifest) / "sub" / "model.bin").read_text() == "second"


def test_replaced_files_stay_while_a_run_may_read_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("first", "second"):
        commit(store, NEW, text=text, committed_at=time.time())
    enter_recipe(store, "films", "", {"pet/x": NEW})
    later = time.time() + garbage.GRACE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    with Leases() as leases, active_run(store, leases) as run:
        run.keep({"pet/x": NEW})
        assert [item.is_leftover for item in find_garbage(store).read] == [True]
        clock = Clock()
        clock.during_pause = leases.heartbeat
        assert removed_by(store, clock) == []
    assert removed_by(store) == [NEW]


@pytest.mark.parametrize("is_committed", [True, False])
def test_leftovers_of_crashed_attempts_are_removed_after_the_grace_period(
    any_store: Store, is_committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe needs the fingerprint, so that nothing else removes them."""
    enter_recipe(any_store, "films", "", {"pet/x": NEW})
    if is_committed:
        commit(any_store, NEW, committed_at=time.time())
    folder = f"pet/x/{NEW}"
    left = [f"{folder}/files/{'e' * 16}/model.bin", f"{folder}/files.{'e' * 32}.part/model.bin"]
    for name in (*left, f"{folder}/work/checkpoint.pt"):
        any_store.write(name, b"x" * 1000)
    assert removed_by(any_store) == [], "the attempt may still run"
    later = time.time() + garbage.GRACE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    [found] = find_garbage(any_store).removable
    assert (found.fingerprint, found.is_leftover, found.num_bytes) == (NEW, True, 2000)
    driver, clock = Leases(), Clock()
    driver.acquire(any_store.slot("pet/x", NEW), "pet/x")
    clock.during_pause = driver.heartbeat
    assert removed_by(any_store, clock) == [], "an attempt runs"
    driver.release(any_store.slot("pet/x", NEW))
    assert removed_by(any_store) == [NEW]
    assert removed_by(any_store) == []
    for name in left:
        with pytest.raises(FileNotFoundError):
            any_store.read(name)
    assert any_store.read(f"{folder}/work/checkpoint.pt"), "the next attempt continues from it"
    assert (any_store.lookup("pet/x", NEW, verify=True) is not None) == is_committed


@pytest.mark.parametrize(
    "name", [f"pet/x/{OLD}", "pet/x", f"pet/x/{NEW}/files/cafe", "recipes/books.json", "logs/pet/x/1.log"]
)
def test_rest_of_an_interrupted_removal_is_removed_after_the_grace_period(
    any_store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk of the store, or of the machine if the store is on a server."""
    enter_recipe(any_store, "films", "", {"pet/x": NEW})
    commit(any_store, NEW, committed_at=time.time())
    path = any_store.local / name
    is_file = bool(path.suffix)
    (path.parent if is_file else path).mkdir(parents=True, exist_ok=True)
    (path if is_file else path / "model.bin").write_bytes(b"x" * 1000)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        remove(path)
    [rest] = any_store.local.rglob(".*.gone")
    assert removed_by(any_store) == [], "the removal may still run"
    later = time.time() + garbage.GRACE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    [found] = [item for item in find_garbage(any_store).removable if item.rest is not None]
    assert (found.rest, found.num_bytes >= 1000) == (rest, True)
    removed_by(any_store)
    assert not rest.exists() and find_garbage(any_store).removable == ()
