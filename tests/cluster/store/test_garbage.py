"""Removing what nobody asks for any more: whole results, never under a driver's hands."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import LeaseHeldError
from cluster.store.base import Store
from cluster.store.garbage import collect_garbage, find_retained
from cluster.store.lease import Leases, Owner
from cluster.store.local import LocalStore
from tests.support.s3_helpers import Proxy, builder, commit, opened

pytestmark = pytest.mark.timeout(60)
NEW, OLD, OLDER = "a" * 64, "b" * 64, "c" * 64
KEEP = {"pet/x": {NEW}}


def filled(store: Store) -> Store:
    """A store with a current result, an old one, an attempt that failed, and another step."""
    commit(store, NEW)
    commit(store, OLD, text="x" * 1000)
    leases = Leases()
    draft = store.begin("pet/x", OLDER, leases.acquire(store.slot("pet/x", OLDER), "pet/x"))
    (draft.checkpoint_dir / "checkpoint.pt").write_text("half way")
    draft.discard()
    leases.release(store.slot("pet/x", OLDER))
    log = store.log_path("pet/x", OLD, 1)
    log.parent.mkdir(parents=True)
    log.write_text("printed")
    store.upload(log)
    return store


def test_unreachable_results_have_their_sizes(store: Store) -> None:
    found = {item.fingerprint: item for item in filled(store).find_stale(KEEP)}
    assert set(found) == {OLD, OLDER}
    assert found[OLD].num_bytes > 1000 > found[OLDER].num_bytes >= len("half way")
    assert (found[OLD].owner, found[OLDER].committed_at) == ("", None)
    assert store.find_stale({"pet/x": {NEW, OLD, OLDER}}) == [] == store.find_stale({"pet/y": set()})


def test_swept_results_are_gone_with_their_logs_and_the_others_are_untouched(store: LocalStore) -> None:
    filled(store)
    assert collect_garbage(store, store.find_stale(KEEP)) == {}
    assert store.fingerprints("pet/x") == [NEW]
    assert store.lookup("pet/x", NEW, verify=True) is not None
    assert list((store.root / "logs").rglob("*.log")) == []
    assert collect_garbage(store, store.find_stale({"pet/x": ()})) == {}
    # The folders of the step go with its last result.
    assert not (store.root / "pet").exists()
    commit(store, NEW)
    assert store.lookup("pet/x", NEW) is not None


def test_swept_results_are_gone_from_a_server_too(proxy: Proxy) -> None:
    store = opened()
    filled(store)
    assert collect_garbage(store, store.find_stale(KEEP)) == {}
    assert store.fingerprints("pet/x") == [NEW]
    assert not [name for name in store.objects.sizes("") if OLD in name or OLDER in name]
    assert not [path for path in store.local.rglob("*") if OLD in str(path) and path.is_file()]
    names = [line for line in proxy.requests if line.startswith("DELETE") and OLD in line]
    assert "manifest.json" in names[0] and "lease.json" in names[-1]


def test_leased_step_is_never_touched_nor_what_it_may_read(store: LocalStore) -> None:
    filled(store)
    other = replace(Owner.current(), host="far", namespace="far")
    leases = Leases()
    leases.owner = other
    token = leases.acquire(store.slot("pet/x", OLDER), "pet/x")
    found = store.find_stale(KEEP)
    kept = collect_garbage(store, found)
    assert kept == find_retained(found)
    assert {item.fingerprint: reason for item, reason in kept.items()} == {
        OLD: f"may be read by {other}, which runs pet/x",
        OLDER: f"being run by {other}",
    }
    lease = store.lease("pet/x", OLDER)
    assert lease is not None and lease.token == token
    assert store.lookup("pet/x", OLD, verify=True) is not None


def test_lease_taken_after_the_list_was_made_counts(store: LocalStore) -> None:
    filled(store)
    found = store.find_stale(KEEP)
    leases = Leases()
    token = leases.acquire(store.slot("pet/x", OLDER), "pet/x")
    assert [item.fingerprint for item in collect_garbage(store, found)] == [OLDER]
    draft = store.begin("pet/x", OLDER, token)
    assert (draft.checkpoint_dir / "checkpoint.pt").read_text() == "half way"
    draft.commit({}, builder(OLDER))


def test_lease_of_a_dead_process_protects_nothing(store: LocalStore) -> None:
    filled(store)
    leases = Leases()
    leases.owner = replace(Owner.current(), started="1")
    leases.acquire(store.slot("pet/x", OLD), "pet/x")
    assert collect_garbage(store, store.find_stale(KEEP)) == {}
    assert store.fingerprints("pet/x") == [NEW]


def test_drivers_and_sweeps_at_once_leave_whole_results(store: LocalStore) -> None:
    """Each commit is there or gone, whatever the order; nobody trips over a folder that vanishes."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def sweep_on() -> None:
        while not stop.is_set():
            try:
                collect_garbage(store, store.find_stale({"pet/x": ()}))
            except BaseException as error:
                failures.append(error)

    sweeper = threading.Thread(target=sweep_on)
    sweeper.start()
    made = 0
    while made < 30:
        try:
            commit(store, OLD)
        except LeaseHeldError:  # a sweep has it just now
            continue
        made += 1
        found = store.inspect("pet/x", OLD)
        assert found.manifest is not None or store.inspect("pet/x", OLD).manifest is None
    stop.set()
    sweeper.join()
    assert failures == []
    commit(store, NEW)
    assert store.lookup("pet/x", NEW, verify=True) is not None


def test_file_left_by_a_lease_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """A folder that was removed while its lock was waited for is made again."""
    store = LocalStore(tmp_path)
    place = store.place("pet/x", NEW)
    leases = Leases()
    leases.acquire(place, "pet/x")
    store.delete("pet/x", NEW)
    leases.release(place)
    leases.heartbeat()
    assert not place.exists()
    token = leases.acquire(place, "pet/x")
    leases.heartbeat()
    lease = store.lease("pet/x", NEW)
    assert lease is not None and (lease.token, lease.heartbeat) == (token, 1)
