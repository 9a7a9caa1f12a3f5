"""Checkpoints of a step in a remote store."""

import time

import pytest

from cluster.store import checkpoints
from cluster.store.lease import Leases
from cluster.store.remote import RemoteStore
from tests.support.s3_helpers import Proxy, opened
from tests.support.store_helpers import FINGERPRINT, begin, commit

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(proxy: Proxy) -> RemoteStore:
    """An empty store on S3."""
    return opened()


def test_checkpoints_are_restored_on_another_machine(store: RemoteStore, other_machine: RemoteStore) -> None:
    leases = Leases()
    staged = begin(store, leases)
    (staged.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    (staged.checkpoint_dir / "half.part").write_text("unfinished")
    staged.discard()
    resumed = other_machine.begin("pet/x", FINGERPRINT, "another token")
    assert [item.name for item in resumed.checkpoint_dir.iterdir()] == ["checkpoint.pt"]
    assert (resumed.checkpoint_dir / "checkpoint.pt").read_text() == "step 10"
    (resumed.checkpoint_dir / "checkpoint.pt").write_text("step 20, later")
    resumed.discard()
    # The first machine has an older local checkpoint, which is replaced.
    again = store.begin("pet/x", FINGERPRINT, "a third token")
    assert (again.checkpoint_dir / "checkpoint.pt").read_text() == "step 20, later"
    again.discard()
    leases.release(store.slot("pet/x", FINGERPRINT))
    commit(store)
    assert not any("work" in name for name in store.objects.sizes(f"pet/x/{FINGERPRINT}"))


def test_checkpoints_are_uploaded_while_the_step_runs(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_S", 0.02)
    staged = begin(store, Leases())
    (staged.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    deadline = time.monotonic() + 30
    names: list[str] = []
    while not names and time.monotonic() < deadline:
        names = [name for name in store.objects.sizes(f"pet/x/{FINGERPRINT}") if name.startswith("work/")]
    staged.discard()
    assert names, "no upload before the step ended"


def test_damaged_checkpoint_is_ignored(store: RemoteStore, other_machine: RemoteStore) -> None:
    staged = begin(store, Leases())
    (staged.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    staged.discard()
    (name,) = store.objects.sizes(f"pet/x/{FINGERPRINT}/work")
    store.objects.write(f"pet/x/{FINGERPRINT}/work/{name}", b"step 1")
    resumed = other_machine.begin("pet/x", FINGERPRINT, "another token")
    assert list(resumed.checkpoint_dir.iterdir()) == []
    resumed.discard()
