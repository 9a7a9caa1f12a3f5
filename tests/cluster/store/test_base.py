"""The store: a result is complete or not there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import CorruptResultError, FingerprintError, LeaseLostError, StepFailedError, StoreError
from cluster.store import local
from cluster.store.base import StagedResult, Store
from cluster.store.lease import Leases
from cluster.store.location import open_store
from cluster.store.manifest import FileEntry, Manifest

FP, OTHER = "a" * 64, "b" * 64


def commit(store: Store, fingerprint: str = FP, text: str = "hello", **about: Any) -> Manifest:
    """Commits a result of step pet/x with one file."""
    leases = Leases()
    token = leases.acquire(store.place("pet/x", fingerprint), "pet/x")
    draft = store.begin("pet/x", fingerprint, token)
    (draft.out / "sub").mkdir()
    (draft.out / "sub" / "model.bin").write_text(text)
    manifest = draft.commit({"score": 0.5}, builder(fingerprint, **about))
    leases.release(store.place("pet/x", fingerprint))
    return manifest


def builder(fingerprint: str = FP, **about: Any) -> Callable[[Any, dict[str, FileEntry]], Manifest]:
    key = about.pop("key", {"config.rate": 1})

    def build(result: Any, files: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            step="pet/x", fingerprint=fingerprint, key=key, files=files, upstream_digests={}, result=result, **about
        )

    return build


def draft_of(store: Store) -> StagedResult:
    return store.begin("pet/x", FP, Leases().acquire(store.place("pet/x", FP), "pet/x"))


def test_committed_result_is_found_with_its_files(store: Store) -> None:
    manifest = commit(store, metrics={"loss": float("nan")}, run_id="r1")
    found = store.lookup("pet/x", FP, verify=True)
    assert found is not None and str(found) == str(manifest)
    folder = store.files("pet/x", FP)
    assert (folder / "sub" / "model.bin").read_text() == "hello"
    assert json.loads((folder / "result.json").read_text()) == {"score": 0.5}
    assert set(found.files) == {"result.json", "sub/model.bin"}
    assert not (store.place("pet/x", FP) / "work").exists()
    assert store.lookup("pet/x", OTHER) is None


def test_moved_store_has_the_same_results(store: Store, tmp_path: Path) -> None:
    commit(store)
    shutil.move(store.root, tmp_path / "elsewhere")
    assert open_store(tmp_path / "elsewhere").lookup("pet/x", FP, verify=True) is not None


def test_manifest_is_written_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the last file and the manifest leaves no result, and the next attempt succeeds."""
    place = store.place("pet/x", FP)

    def crash(path: Path, data: bytes) -> None:
        assert path == place / "manifest.json"
        assert (place / "files" / "sub" / "model.bin").read_text() == "hello"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "write_atomic", crash)
        with pytest.raises(KeyboardInterrupt):
            commit(store)
    assert store.lookup("pet/x", FP) is None
    shutil.rmtree(place / ".lease.lock", ignore_errors=True)
    (place / "lease.json").unlink()
    commit(store, text="again")
    assert store.lookup("pet/x", FP, verify=True) is not None
    assert (place / "files" / "sub" / "model.bin").read_text() == "again"


def test_work_outlives_a_failed_attempt(store: Store) -> None:
    draft = draft_of(store)
    (draft.checkpoint_dir / "checkpoint.pt").write_text("half way")
    (draft.out / "junk").write_text("x")
    draft.discard()
    assert not draft.out.exists()
    assert (draft.checkpoint_dir / "checkpoint.pt").read_text() == "half way"


def test_files_of_a_killed_attempt_are_cleared_away(store: Store) -> None:
    first = draft_of(store)
    (first.out / "junk").write_text("x")
    second = store.begin("pet/x", FP, "another token")
    assert not first.out.exists()
    assert list(second.out.iterdir()) == []


def test_commit_without_the_lease_is_refused(store: Store) -> None:
    draft = draft_of(store)
    (store.place("pet/x", FP) / "lease.json").unlink()
    Leases().acquire(store.place("pet/x", FP), "pet/x")
    with pytest.raises(LeaseLostError):
        draft.commit({}, builder())
    assert store.lookup("pet/x", FP) is None


def truncate(path: Path) -> None:
    path.write_text("hell")


def flip(path: Path) -> None:
    path.write_text("jello")


@pytest.mark.parametrize(
    ("damage", "verify", "problem"),
    [
        (Path.unlink, False, "model.bin is missing"),
        (truncate, False, "model.bin has 4 bytes and should have 5"),
        (flip, True, "model.bin has other content than was written"),
    ],
)
def test_damaged_result_is_no_hit(store: Store, damage: Callable[[Path], None], verify: bool, problem: str) -> None:
    commit(store)
    damage(store.files("pet/x", FP) / "sub" / "model.bin")
    found = store.inspect("pet/x", FP, verify=verify)
    assert found.manifest is None
    assert found.problems == (f"sub/{problem}",)
    with pytest.raises(CorruptResultError, match="made anew"):
        store.require("pet/x", FP, verify=verify)
    commit(store)
    assert store.lookup("pet/x", FP, verify=True) is not None


def test_sizes_alone_do_not_show_a_flipped_bit(store: Store) -> None:
    commit(store)
    flip(store.files("pet/x", FP) / "sub" / "model.bin")
    assert store.lookup("pet/x", FP) is not None


@pytest.mark.parametrize("change", [{"format": 0}, {"files": None}, {"surprise": 1}])
def test_manifest_of_another_form_is_no_hit(store: Store, change: dict[str, Any]) -> None:
    commit(store)
    path = store.place("pet/x", FP) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert store.lookup("pet/x", FP) is None
    assert store.inspect("pet/x", FP).problems
    path.write_text("{")
    assert "cannot be read" in store.inspect("pet/x", FP).problems[0]


def test_set_aside_takes_the_manifest_first(store: Store) -> None:
    commit(store)
    store.invalidate("pet/x", FP)
    assert store.inspect("pet/x", FP).problems == ()
    assert store.lookup("pet/x", FP) is None
    assert not store.files("pet/x", FP).exists()


def test_nearest_has_the_fewest_differences_and_then_is_the_latest(store: Store) -> None:
    commit(store, "1" * 64, key={"rate": 1, "steps": 1}, committed=1.0)
    commit(store, "2" * 64, key={"rate": 2, "steps": 2}, committed=3.0)
    commit(store, "3" * 64, key={"rate": 1, "steps": 3}, committed=2.0)
    latest = store.nearest("pet/x", FP)
    assert latest is not None and latest.fingerprint == "2" * 64
    nearest = store.nearest("pet/x", FP, {"rate": 1, "steps": 9})
    assert nearest is not None and nearest.fingerprint == "3" * 64
    assert store.nearest("pet/y", FP) is None


def test_content_is_equal_for_equal_bytes(store: Store) -> None:
    assert commit(store).content_digest == commit(store, OTHER).content_digest
    assert commit(store, text="more").content_digest != commit(store, OTHER).content_digest


def test_result_without_canonical_form_is_refused(store: Store) -> None:
    draft = draft_of(store)
    with pytest.raises(FingerprintError, match="the result of step pet/x"):
        draft.commit({"score": float("nan")}, builder())


def test_failure_is_kept_until_a_commit(store: Store) -> None:
    failure = StepFailedError("pet/x", "ValueError: no", remedy="Do.", trace="t", log="l", attempt=3)
    store.record_failure(FP, failure)
    kept = store.failure("pet/x", FP)
    assert kept is not None and vars(kept) == vars(failure)
    commit(store)
    assert store.failure("pet/x", FP) is None


def test_url_of_a_folder_is_that_folder(store: Store) -> None:
    manifest = commit(store)
    again = open_store(f"file://{store.url}")
    assert again.url == store.url and again.lookup("pet/x", FP) == manifest


def test_store_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "file")
