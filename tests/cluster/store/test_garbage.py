"""Removing stale results, but never those that a driver uses."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import LeaseHeldError
from cluster.store.base import Store, collect_garbage, find_retained
from cluster.store.lease import Leases, Owner
from cluster.store.local import LocalStore
from tests.support.s3_helpers import Proxy, opened
from tests.support.store_helpers import builder, commit

pytestmark = pytest.mark.timeout(60)
NEW, OLD, OLDER = "a" * 64, "b" * 64, "c" * 64
KEEP = {"pet/x": {NEW}}


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


def test_find_stale_reports_sizes(store: Store) -> None:
    stale = {item.fingerprint: item for item in filled(store).find_stale(KEEP)}
    assert set(stale) == {OLD, OLDER}
    assert stale[OLD].num_bytes > 1000 > stale[OLDER].num_bytes >= len("half")
    assert (stale[OLD].owner, stale[OLDER].committed_at) == ("", None)
    assert store.find_stale({"pet/x": {NEW, OLD, OLDER}}) == [] == store.find_stale({"pet/y": set()})


def test_collect_garbage_removes_stale_results_and_their_logs(store: LocalStore) -> None:
    filled(store)
    assert collect_garbage(store, store.find_stale(KEEP)) == {}
    assert store.fingerprints("pet/x") == [NEW]
    assert store.lookup("pet/x", NEW, verify=True) is not None
    assert list((store.root / "logs").rglob("*.log")) == []
    assert collect_garbage(store, store.find_stale({"pet/x": ()})) == {}
    # The folder of a step without results is removed.
    assert not (store.root / "pet").exists()
    commit(store, NEW)
    assert store.lookup("pet/x", NEW) is not None


def test_collect_garbage_works_on_a_server(proxy: Proxy) -> None:
    store = opened()
    filled(store)
    assert collect_garbage(store, store.find_stale(KEEP)) == {}
    assert store.fingerprints("pet/x") == [NEW]
    assert not [name for name in store.objects.sizes("") if OLD in name or OLDER in name]
    assert not [path for path in store.local.rglob("*") if OLD in str(path) and path.is_file()]
    deleted = [line for line in proxy.requests if line.startswith("DELETE") and OLD in line]
    assert "manifest.json" in deleted[0] and "lease.json" in deleted[-1]


def test_collect_garbage_keeps_running_steps_and_what_they_may_read(store: LocalStore) -> None:
    filled(store)
    other = replace(Owner.current(), host="far", namespace="far")
    leases = Leases()
    leases.owner = other
    token = leases.acquire(store.slot("pet/x", OLDER), "pet/x")
    stale = store.find_stale(KEEP)
    retained = collect_garbage(store, stale)
    assert retained == find_retained(stale)
    assert {item.fingerprint: reason for item, reason in retained.items()} == {
        OLD: f"may be read by {other}, which runs pet/x",
        OLDER: f"being run by {other}",
    }
    lease = store.lease("pet/x", OLDER)
    assert lease is not None and lease.token == token
    assert store.lookup("pet/x", OLD, verify=True) is not None


def test_collect_garbage_respects_a_lease_acquired_after_find_stale(store: LocalStore) -> None:
    filled(store)
    stale = store.find_stale(KEEP)
    leases = Leases()
    token = leases.acquire(store.slot("pet/x", OLDER), "pet/x")
    assert [item.fingerprint for item in collect_garbage(store, stale)] == [OLDER]
    staged = store.begin("pet/x", OLDER, token)
    assert (staged.checkpoint_dir / "checkpoint.pt").read_text() == "half"
    staged.commit({}, builder(OLDER))


def test_collect_garbage_ignores_the_lease_of_a_dead_process(store: LocalStore) -> None:
    filled(store)
    leases = Leases()
    leases.owner = replace(Owner.current(), started="1")
    leases.acquire(store.slot("pet/x", OLD), "pet/x")
    assert collect_garbage(store, store.find_stale(KEEP)) == {}
    assert store.fingerprints("pet/x") == [NEW]


def test_collect_garbage_next_to_commits_leaves_complete_results(store: LocalStore) -> None:
    """Each commit exists or is removed, in any order, and no process fails because a folder disappears."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def collect_repeatedly() -> None:
        while not stop.is_set():
            try:
                collect_garbage(store, store.find_stale({"pet/x": ()}))
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
    folder = store.folder("pet/x", NEW)
    leases = Leases()
    leases.acquire(folder, "pet/x")
    store.delete("pet/x", NEW)
    leases.release(folder)
    leases.heartbeat()
    assert not folder.exists()
    token = leases.acquire(folder, "pet/x")
    leases.heartbeat()
    lease = store.lease("pet/x", NEW)
    assert lease is not None and (lease.token, lease.heartbeat) == (token, 1)
