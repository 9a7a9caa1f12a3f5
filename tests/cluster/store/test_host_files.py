"""Files of workers on machines that share no folder: one of them uploads, and all fetch the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.store.host_files import HostFiles
from cluster.store.lease import Leases
from cluster.store.local import LocalStore
from cluster.store.remote import RemoteStore
from tests.support.s3_helpers import Proxy, opened
from tests.support.store_helpers import FINGERPRINT, STEP, builder

pytestmark = pytest.mark.timeout(60)
TOKEN = "f" * 32


@pytest.fixture
def store(proxy: Proxy) -> RemoteStore:
    """An empty store on S3."""
    return opened()


def started(store: RemoteStore, start: str, token: str = TOKEN) -> HostFiles:
    """Returns the files of a start, with the latest checkpoint."""
    host = store.host_files(STEP, FINGERPRINT, token)
    host.open(start)
    assert host.create(host.latest_checkpoint())
    return host


def test_machines_of_a_folder_have_no_files_of_their_own(tmp_path: Path) -> None:
    assert LocalStore(tmp_path).host_files(STEP, FINGERPRINT, TOKEN) is None


def test_files_of_another_machine_are_committed(store: RemoteStore, other_machine: RemoteStore) -> None:
    leases = Leases()
    token = leases.acquire(store.slot(STEP, FINGERPRINT), STEP)
    staged = store.begin(STEP, FINGERPRINT, token, has_workers=True)
    host = started(other_machine, "first", token)
    (host.out / "sub").mkdir()
    (host.out / "sub" / "model.bin").write_text("hello")
    staged.uploaded = host.upload()
    host.remove()
    manifest = staged.commit({"score": 0.5}, builder())
    assert sorted(manifest.files) == ["result.json", "sub/model.bin"]
    for machine in (store, other_machine):
        assert machine.lookup(STEP, FINGERPRINT, verify=True) is not None
        folder = machine.files_of(manifest)
        assert folder.is_relative_to(machine.local)
        assert (folder / "sub" / "model.bin").read_text() == "hello" and (folder / "result.json").exists()
    assert not store.scratch(STEP, FINGERPRINT).exists()


def test_checkpoint_of_one_machine_starts_all(store: RemoteStore, other_machine: RemoteStore) -> None:
    host = started(store, "first")
    host.keep_checkpoints()
    (host.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    host.save_checkpoint()
    (host.checkpoint_dir / "checkpoint.pt").write_text("step 11, not saved")
    for machine in (store, other_machine):
        resumed = started(machine, "second")
        assert [path.name for path in resumed.checkpoint_dir.parents[1].iterdir()] == ["second"], "no earlier start"
        assert (resumed.checkpoint_dir / "checkpoint.pt").read_text() == "step 10"
        assert not list(resumed.out.iterdir())
        resumed.remove()
        assert not resumed.checkpoint_dir.exists() and not resumed.out.exists()


def test_worker_with_ranks_leaves_checkpoints_to_them(store: RemoteStore, other_machine: RemoteStore) -> None:
    host = started(other_machine, "first")
    host.keep_checkpoints()
    (host.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    host.save_checkpoint()
    staged = store.begin(STEP, FINGERPRINT, TOKEN, has_workers=True)
    assert not list(staged.checkpoint_dir.iterdir())
    (staged.checkpoint_dir / "stacks").mkdir()
    (staged.checkpoint_dir / "stacks" / "0.txt").write_text("a dump")
    staged.discard()
    assert list(host.latest_checkpoint()) == ["checkpoint.pt"]


def test_damaged_checkpoint_is_forgotten(store: RemoteStore, other_machine: RemoteStore) -> None:
    host = started(store, "first")
    host.keep_checkpoints()
    (host.checkpoint_dir / "checkpoint.pt").write_text("step 10")
    host.save_checkpoint()
    index = host.latest_checkpoint()
    intact = started(other_machine, "second")
    store.objects.write(f"{STEP}/{FINGERPRINT}/work/{index['checkpoint.pt']}", b"step 1")
    damaged = store.host_files(STEP, FINGERPRINT, TOKEN)
    damaged.open("second")
    assert not damaged.create(index)
    assert not list(damaged.checkpoint_dir.iterdir())
    intact.forget_checkpoint()
    assert not list(intact.checkpoint_dir.iterdir())
