"""Two attempts of one driver that compute the same result: the first to commit wins, and nothing of the other stays."""

from functools import partial
from pathlib import Path

import pytest

from cluster.errors import LeaseLostError
from cluster.store.base import StagedResult, Store
from cluster.store.lease import Lease, Leases, new_token, supersede
from cluster.store.local import LocalStore
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.store.remote import RemoteStore
from tests.support.s3_helpers import opened
from tests.support.store_helpers import FINGERPRINT, STEP, builder

pytestmark = pytest.mark.timeout(60)


class Attempt:
    """One of two attempts of a driver. The first one has the lease; `rival` is its token."""

    def __init__(self, store: Store, leases: Leases, rival: str = "") -> None:
        slot = store.slot(STEP, FINGERPRINT)
        self.token = new_token() if rival else leases.acquire(slot, STEP)
        self.staged: StagedResult = store.begin(STEP, FINGERPRINT, self.token, rival=rival)
        if rival:
            self.staged.claim = partial(supersede, slot, rival, Lease(owner=leases.owner, token=self.token), STEP)
        assert list(self.staged.checkpoint_dir.iterdir()) == []
        (self.staged.out / "model.bin").write_text("weights")
        (self.staged.checkpoint_dir / "step.pt").write_text(self.token)

    def commit(self) -> Manifest:
        try:
            return self.staged.commit({"score": 0.5}, builder())
        finally:
            self.staged.discard()


class Rivals:
    """Two attempts of one driver, in a store that each of them opens on its own machine."""

    def __init__(self, first: Store, second: Store) -> None:
        self.stores = first, second
        self.leases = Leases()
        self.first = Attempt(first, self.leases)
        self.second = Attempt(second, self.leases, self.first.token)

    def end(self, loser: Attempt) -> None:
        """Does what the driver does when the attempt has ended that lost."""
        slot = self.stores[0].slot(STEP, FINGERPRINT)
        for token in (self.first.token, self.second.token):
            slot.compare_and_swap(token, None)
        self.stores[0].discard_attempt(STEP, FINGERPRINT, loser.token)

    def names(self) -> list[str]:
        """Returns the files of the result, and of the machines all but the results that they keep."""
        names = []
        for store in self.stores:
            if isinstance(store, RemoteStore):
                scratch = store.scratch(STEP, FINGERPRINT)
                names += [*store.objects.sizes(f"{STEP}/{FINGERPRINT}"), *(str(path) for path in scratch.rglob("*"))]
            else:
                assert isinstance(store, LocalStore)
                folder = store.folder(STEP, FINGERPRINT)
                names += [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
                names += [path.name for path in folder.glob("*.part")]
        return sorted({name for name in names if "lease" not in name})


@pytest.fixture(params=["folder", "s3"])
def rivals(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rivals:
    """Two attempts, in a shared folder and in a store on S3."""
    if request.param == "folder":
        return Rivals(open_store(tmp_path / "store"), open_store(tmp_path / "store"))
    request.getfixturevalue("proxy")
    first = opened()
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "another machine"))
    return Rivals(first, opened())


@pytest.mark.parametrize("winner", ["first", "second"])
def test_first_attempt_to_commit_wins(rivals: Rivals, winner: str) -> None:
    won, lost = (rivals.first, rivals.second) if winner == "first" else (rivals.second, rivals.first)
    manifest = won.commit()
    with pytest.raises(LeaseLostError):
        lost.commit()
    rivals.end(lost)
    assert manifest.folder.endswith(won.token[:16])
    for store in rivals.stores:
        assert store.lookup(STEP, FINGERPRINT, verify=True) == manifest
        assert store.lease(STEP, FINGERPRINT) is None
    assert rivals.names() == sorted([*(f"{manifest.folder}/{name}" for name in manifest.files), "manifest.json"])


def test_first_attempt_that_is_slow_to_publish_cannot_replace_the_result(
    rivals: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt commits between the last file of the first one and its manifest."""
    committed: list[Manifest] = []
    rivals.first.staged.claim = lambda: committed.append(rivals.second.commit())
    with pytest.raises(LeaseLostError):
        rivals.first.commit()
    rivals.end(rivals.first)
    assert rivals.stores[0].lookup(STEP, FINGERPRINT, verify=True) == committed[0]
    assert rivals.names() == sorted(
        [*(f"{committed[0].folder}/{name}" for name in committed[0].files), "manifest.json"]
    )


def test_second_attempt_leaves_the_files_of_the_first_alone(rivals: Rivals) -> None:
    rivals.second.staged.discard()
    first = rivals.first.staged
    assert (first.out / "model.bin").read_text() == "weights"
    assert (first.checkpoint_dir / "step.pt").read_text() == rivals.first.token
    assert not rivals.second.staged.out.exists() and not rivals.second.staged.checkpoint_dir.exists()
    assert rivals.first.commit().files.keys() == {"model.bin", "result.json"}


def test_next_attempt_removes_what_both_left(rivals: Rivals) -> None:
    """Their driver was killed, and the next one continues from the checkpoint of the first attempt."""
    third = rivals.stores[0].begin(STEP, FINGERPRINT, "third")
    assert [path.name for path in third.out.parent.glob("*.part")] == ["files.third.part"]
    assert (third.checkpoint_dir / "step.pt").read_text() == rivals.first.token
    third.discard()


def test_another_driver_ends_both_attempts(rivals: Rivals) -> None:
    slot = rivals.stores[0].slot(STEP, FINGERPRINT)
    assert slot.compare_and_swap(rivals.first.token, Lease(owner=rivals.leases.owner, token="other"))
    for attempt in (rivals.second, rivals.first):
        with pytest.raises(LeaseLostError):
            attempt.commit()
    assert rivals.stores[0].lookup(STEP, FINGERPRINT) is None
