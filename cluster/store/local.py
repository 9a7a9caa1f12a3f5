"""A store in a folder of a local disk, or of a disk that machines share.

If a result is replaced, its files stay for steps that read them, until the new one is replaced, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cluster.errors import LeaseLostError, StoreError
from cluster.store.base import FILES, StagedResult, Store, attempt_folder
from cluster.store.files import (
    file_digest,
    link_files,
    newest_change,
    num_bytes,
    remove,
    sync_to_disk,
    sync_tree,
    write_atomic,
)
from cluster.store.lease import FileLease, is_held, locked
from cluster.store.manifest import Manifest


class LocalStore(Store):
    """Results below the folder `root`, an absolute path.

    Raises:
        StoreError: `root` is a file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"the store {self.root} is a file.", "Specify a folder.")
        self.url = str(self.root)
        self.local = self.root

    def folder(self, step: str, fingerprint: str) -> Path:
        """Returns the folder of one result."""
        return self.root / step / fingerprint

    @property
    def accepts_many_drivers(self) -> bool:
        """See `Store`. File locks keep drivers apart."""
        return True

    def slot(self, step: str, fingerprint: str) -> FileLease:
        """See `Store`."""
        return FileLease(self.folder(step, fingerprint))

    def begin(
        self, step: str, fingerprint: str, token: str, *, has_workers: bool = False, rival: str = ""
    ) -> LocalStagedResult:
        """See `Store`."""
        del has_workers
        return LocalStagedResult(self.folder(step, fingerprint), step, fingerprint, token, rival)

    def host_files(self, step: str, fingerprint: str, token: str) -> None:
        """See `Store`. All machines have the folder of the store."""

    def adopt(self, source: Manifest, manifest: Manifest, token: str) -> Manifest:
        """See `Store`."""
        staged = self.begin(manifest.step, manifest.fingerprint, token)
        try:
            link_files(self.files_of(source), manifest.files, staged.out)
            return staged.publish(manifest)
        finally:
            staged.discard()

    def files_of(self, manifest: Manifest) -> Path:
        """See `Store`. Checks nothing, because the plan did."""
        return self.folder(manifest.step, manifest.fingerprint) / manifest.folder

    def upload(self, path: Path) -> None:
        """See `Store`. Does nothing: `local` is the store."""

    def uri_of(self, path: Path) -> str:
        """See `Store`."""
        return str(path)

    def delete(self, step: str, fingerprint: str) -> None:
        """See `Store`."""
        folder = self.folder(step, fingerprint)
        with locked(folder):
            super().delete(step, fingerprint)
        # Remove parent folders that are empty now, such as pet/review/0 and pet/review.
        with suppress(OSError):
            while (folder := folder.parent) != self.root:
                folder.rmdir()

    def read(self, name: str) -> bytes:
        """See `Store`."""
        try:
            return (self.root / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(name) from error

    def write(self, name: str, data: bytes) -> None:
        """See `Store`."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    def remove(self, name: str) -> None:
        """See `Store`."""
        remove(self.root / name)

    def children(self, name: str) -> list[str]:
        """See `Store`."""
        try:
            return [item.name for item in (self.root / name).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _commit_times(self, step: str) -> Mapping[str, float]:
        times = {}
        for fingerprint in self.children(step):
            with suppress(FileNotFoundError, NotADirectoryError):
                times[fingerprint] = (self.root / step / fingerprint / "manifest.json").stat().st_mtime
        return times

    def _num_bytes(self, name: str) -> int:
        return num_bytes(self.root / name)

    def _written_at(self, name: str) -> float:
        return newest_change(self.root / name)

    def _sizes(self, manifest: Manifest) -> Mapping[str, int]:
        sizes = {}
        for name in manifest.files:
            with suppress(FileNotFoundError, NotADirectoryError):
                sizes[name] = self._file(manifest, name).stat().st_size
        return sizes

    def _digest(self, manifest: Manifest, name: str) -> str:
        return file_digest(self._file(manifest, name))

    def _file(self, manifest: Manifest, name: str) -> Path:
        return self.files_of(manifest) / name


class LocalStagedResult(StagedResult):
    """Writes files next to the committed result and renames them to commit."""

    def __init__(self, folder: Path, step: str, fingerprint: str, token: str, rival: str = "") -> None:
        super().__init__(folder, step, fingerprint, token, rival)
        self._folder = folder
        self._manifest = _manifest_data(folder)

    def discard(self) -> None:
        """See `StagedResult`."""
        remove(self.out)
        if self._rival:
            remove(self.checkpoint_dir)

    def publish(self, manifest: Manifest) -> Manifest:
        """See `StagedResult`."""
        sync_tree(self.out)
        self.claim()
        with locked(self._folder):
            if not is_held(self._folder, self._token):
                raise LeaseLostError(self.step)
            # The rival may have committed, and not yet released the lease that this attempt has taken from it.
            if self._rival and _manifest_data(self._folder) != self._manifest:
                raise LeaseLostError(self.step)
            # A step may be reading an older result, which is damaged or was forced to rerun.
            replaced = _committed_folder(self._folder)
            manifest = replace(manifest, folder=attempt_folder(self._token))
            target = self._folder / manifest.folder
            target.parent.mkdir(exist_ok=True)
            remove(target)
            self.out.rename(target)
            sync_to_disk(target.parent)
            sync_to_disk(self._folder)
            write_atomic(self._folder / "manifest.json", manifest.to_json())
            for path in (*target.parent.iterdir(), *self._folder.glob(f"{FILES}-*")):
                if not _is_in(path, target) and not _is_in(path, self._folder / (replaced or manifest.folder)):
                    remove(path)
        (self._folder / "failure.json").unlink(missing_ok=True)
        remove(self.checkpoint_dir)
        return manifest


def _manifest_data(folder: Path) -> bytes | None:
    """Returns the current manifest; None if there is none."""
    with suppress(FileNotFoundError):
        return (folder / "manifest.json").read_bytes()
    return None


def _committed_folder(folder: Path) -> str | None:
    """Returns the name of the folder with the files of the current result; None if there is no result."""
    data = _manifest_data(folder)
    try:
        return None if data is None else Manifest.from_json(data).folder
    except StoreError:  # damaged, or of another version
        return FILES


def _is_in(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
