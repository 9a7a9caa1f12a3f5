"""The local store: a result is either complete or absent."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import FingerprintError, LeaseLostError, StepFailedError, StoreError
from cluster.store import local
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.location import open_store
from tests.support.s3_helpers import Proxy, opened
from tests.support.store_helpers import FINGERPRINT, OTHER, begin, builder, commit


def test_lookup_finds_a_committed_result(store: Store) -> None:
    manifest = commit(store, metrics={"loss": float("nan")}, run_id="r1")
    result = store.lookup("pet/x", FINGERPRINT, verify=True)
    assert result is not None and str(result) == str(manifest)
    folder = store.files("pet/x", FINGERPRINT)
    assert (folder / "sub" / "model.bin").read_text() == "hello"
    assert json.loads((folder / "result.json").read_text()) == {"score": 0.5}
    assert set(result.files) == {"result.json", "sub/model.bin"}
    assert not (store.folder("pet/x", FINGERPRINT) / "work").exists()
    assert store.lookup("pet/x", OTHER) is None


def test_store_can_be_moved(store: Store, tmp_path: Path) -> None:
    commit(store)
    shutil.move(store.root, tmp_path / "elsewhere")
    assert open_store(tmp_path / "elsewhere").lookup("pet/x", FINGERPRINT, verify=True) is not None


def test_commit_writes_the_manifest_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash between the last file and the manifest there is no result, and the next attempt succeeds."""
    result_folder = store.folder("pet/x", FINGERPRINT)

    def crash(path: Path, data: bytes) -> None:
        assert path == result_folder / "manifest.json"
        assert [path.read_text() for path in result_folder.glob("files/*/sub/model.bin")] == ["hello"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "write_atomic", crash)
        with pytest.raises(KeyboardInterrupt):
            commit(store)
    assert store.lookup("pet/x", FINGERPRINT) is None
    shutil.rmtree(result_folder / ".lease.lock", ignore_errors=True)
    (result_folder / "lease.json").unlink()
    commit(store, text="again")
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None
    assert [path.read_text() for path in result_folder.glob("files/*/sub/model.bin")] == ["again"]


def test_reader_of_a_replaced_result_sees_the_files_of_one_attempt(store: Store) -> None:
    first = commit(store, text="first")
    folder = store.files_of(first)
    second = commit(store, text="second")
    assert (folder / "sub" / "model.bin").read_text() == "first", "a step may be reading it"
    assert (store.files_of(second) / "sub" / "model.bin").read_text() == "second"
    assert store.files("pet/x", FINGERPRINT) == store.files_of(second) != folder
    third = commit(store, text="third")
    assert not folder.exists(), "it does not become the folder of another attempt"
    assert (store.files_of(second) / "sub" / "model.bin").read_text() == "second"
    assert store.lookup("pet/x", FINGERPRINT, verify=True) == third


@pytest.mark.parametrize("earlier", ["files", "files-0123456789abcdef"])
def test_result_in_the_layout_of_an_earlier_version_loads_and_is_replaced(store: Store, earlier: str) -> None:
    """On disks its files were in `files`, or in `files-<token>` if it had replaced another one."""
    manifest = commit(store, text="first")
    result_folder = store.folder("pet/x", FINGERPRINT)
    store.files_of(manifest).rename(result_folder / "moved")
    (result_folder / "files").rmdir()
    (result_folder / "moved").rename(result_folder / earlier)
    (result_folder / "manifest.json").write_bytes(replace(manifest, folder=earlier).to_json())
    first = store.lookup("pet/x", FINGERPRINT, verify=True)
    assert first is not None and store.files_of(first) == result_folder / earlier
    second = commit(store, text="second")
    assert (store.files_of(first) / "sub" / "model.bin").read_text() == "first", "a step may be reading it"
    third = commit(store, text="third")
    kept = {store.files_of(second), store.files_of(third)}
    assert set((result_folder / "files").iterdir()) == kept and not list(result_folder.glob("files-*"))
    assert store.lookup("pet/x", FINGERPRINT, verify=True) == third


def test_disk_and_server_have_the_same_layout(store: Store, proxy: Proxy) -> None:
    on_server = opened()
    for target in (store, on_server):
        for text in ("first", "second"):
            manifest = commit(target, text=text)
            assert re.fullmatch("files/[0-9a-f]{16}", manifest.folder)
    on_disk = [path.relative_to(store.root).as_posix() for path in store.root.rglob("*.*") if path.is_file()]
    on_disk += [f"pet/x/{FINGERPRINT}/lease.json"]  # a free lease is a file that contains null, or none
    in_objects = [name for name in on_server.objects.sizes("") if not name.startswith(".probe")]
    same = [{re.sub("files/[0-9a-f]{16}/", "files/TOKEN/", name) for name in names} for names in (on_disk, in_objects)]
    assert same[0] - {f"pet/x/{FINGERPRINT}/.lease.lock"} == same[1]
    assert len(same[1]) == 4


def test_checkpoints_survive_a_failed_attempt(store: Store) -> None:
    staged = begin(store, Leases())
    (staged.checkpoint_dir / "checkpoint.pt").write_text("half")
    (staged.out / "junk").write_text("x")
    staged.discard()
    assert not staged.out.exists()
    assert (staged.checkpoint_dir / "checkpoint.pt").read_text() == "half"


def test_begin_removes_the_files_of_a_killed_attempt(store: Store) -> None:
    first = begin(store, Leases())
    (first.out / "junk").write_text("x")
    second = store.begin("pet/x", FINGERPRINT, "another token")
    assert not first.out.exists()
    assert list(second.out.iterdir()) == []


def test_commit_without_the_lease_fails(store: Store) -> None:
    staged = begin(store, Leases())
    (store.folder("pet/x", FINGERPRINT) / "lease.json").unlink()
    Leases().acquire(store.slot("pet/x", FINGERPRINT), "pet/x")
    with pytest.raises(LeaseLostError):
        staged.commit({}, builder())
    assert store.lookup("pet/x", FINGERPRINT) is None


def truncate(path: Path) -> None:
    path.write_text("hell")


def change(path: Path) -> None:
    path.write_text("jello")


@pytest.mark.parametrize(
    ("damage", "verify", "problem"),
    [
        (Path.unlink, False, "model.bin is missing"),
        (truncate, False, "model.bin has 4 bytes, expected 5"),
        (change, True, "model.bin has changed content"),
    ],
)
def test_damaged_result_does_not_count(
    store: Store, damage: Callable[[Path], None], verify: bool, problem: str
) -> None:
    commit(store)
    damage(store.files("pet/x", FINGERPRINT) / "sub" / "model.bin")
    result = store.inspect("pet/x", FINGERPRINT, verify=verify)
    assert result.manifest is None
    assert result.problems == (f"sub/{problem}",)
    commit(store)
    assert store.lookup("pet/x", FINGERPRINT, verify=True) is not None


def test_changed_content_is_result_only_with_verify(store: Store) -> None:
    commit(store)
    change(store.files("pet/x", FINGERPRINT) / "sub" / "model.bin")
    assert store.lookup("pet/x", FINGERPRINT) is not None


@pytest.mark.parametrize("fields", [{"format": 0}, {"files": None}, {"unknown": 1}])
def test_manifest_of_another_format_does_not_count(store: Store, fields: dict[str, Any]) -> None:
    commit(store)
    path = store.folder("pet/x", FINGERPRINT) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert store.lookup("pet/x", FINGERPRINT) is None
    assert store.inspect("pet/x", FINGERPRINT).problems
    path.write_text("{")
    assert "cannot be read" in store.inspect("pet/x", FINGERPRINT).problems[0]


def test_invalidate_removes_a_result(store: Store) -> None:
    commit(store)
    store.invalidate("pet/x", FINGERPRINT)
    assert store.inspect("pet/x", FINGERPRINT).problems == ()
    assert store.lookup("pet/x", FINGERPRINT) is None
    with pytest.raises(StoreError, match="step pet/x has no committed result"):
        store.files("pet/x", FINGERPRINT)
    assert not (store.folder("pet/x", FINGERPRINT) / "files").exists()


def test_nearest_has_the_fewest_differences_or_is_the_latest(store: Store) -> None:
    commit(store, "1" * 64, key={"rate": 1, "steps": 1}, committed_at=1.0)
    commit(store, "2" * 64, key={"rate": 2, "steps": 2}, committed_at=3.0)
    commit(store, "3" * 64, key={"rate": 1, "steps": 3}, committed_at=2.0)
    latest = store.nearest("pet/x", FINGERPRINT)
    assert latest is not None and latest.fingerprint == "2" * 64
    nearest = store.nearest("pet/x", FINGERPRINT, {"rate": 1, "steps": 9})
    assert nearest is not None and nearest.fingerprint == "3" * 64
    assert store.nearest("pet/y", FINGERPRINT) is None


def test_content_digest_depends_on_the_bytes_only(store: Store) -> None:
    assert commit(store).content_digest == commit(store, OTHER).content_digest
    assert commit(store, text="more").content_digest != commit(store, OTHER).content_digest


def test_commit_rejects_a_result_without_canonical_form(store: Store) -> None:
    staged = begin(store, Leases())
    with pytest.raises(FingerprintError, match="the result of step pet/x"):
        staged.commit({"score": float("nan")}, builder())


def test_failure_is_kept_until_a_commit(store: Store) -> None:
    failure = StepFailedError("pet/x", "ValueError: no", remedy="Do.", trace="t", log="l", attempt=3)
    store.record_failure(FINGERPRINT, failure)
    kept = store.failure("pet/x", FINGERPRINT)
    assert kept is not None and vars(kept) == vars(failure)
    commit(store)
    assert store.failure("pet/x", FINGERPRINT) is None


def test_file_url_opens_the_folder(store: Store) -> None:
    manifest = commit(store)
    same = open_store(f"file://{store.url}")
    assert same.url == store.url and same.lookup("pet/x", FINGERPRINT) == manifest


def test_open_store_rejects_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "file")
