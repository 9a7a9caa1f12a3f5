"""A store in a folder of a local disk, or of a disk that machines share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cluster.errors import LeaseLostError, StoreError
from cluster.store.base import StagedResult, Store
from cluster.store.files import file_digest, link_files, remove, sync_folder, sync_tree, write_atomic
from cluster.store.lease import FileLease, is_held, locked
from cluster.store.manifest import Manifest


class LocalStore(Store):
    """Results below the folder `root`, which is absolute.

    Raises:
        StoreError: it is a file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"the store {self.root} is a file.", "Give a folder.")
        self.url = str(self.root)
        self.local = self.root

    def place(self, step: str, fingerprint: str) -> Path:
        """The folder of one result."""
        return self.root / step / fingerprint

    def slot(self, step: str, fingerprint: str) -> FileLease:
        """See `Store`."""
        return FileLease(self.place(step, fingerprint))

    def begin(self, step: str, fingerprint: str, token: str) -> LocalStagedResult:
        """See `Store`."""
        return LocalStagedResult(self.place(step, fingerprint), step, fingerprint, token)

    def adopt(self, source: Manifest, manifest: Manifest, token: str) -> Manifest:
        """See `Store`."""
        staged = self.begin(manifest.step, manifest.fingerprint, token)
        try:
            link_files(self._folder(source), manifest.files, staged.out)
            return staged._publish(manifest)
        finally:
            staged.discard()

    def files(self, step: str, fingerprint: str) -> Path:
        """See `Store`. Nothing is looked at: who plans has done so."""
        return self.place(step, fingerprint) / "files"

    def upload(self, path: Path) -> None:
        """See `Store`. It is there already."""

    def uri_of(self, path: Path) -> str:
        """See `Store`."""
        return str(path)

    def delete(self, step: str, fingerprint: str) -> None:
        """See `Store`."""
        with locked(self.place(step, fingerprint)):
            super().delete(step, fingerprint)
        # Folders that only held this result, such as pet/review/0 and pet/review.
        folder = self.place(step, fingerprint).parent
        with suppress(OSError):
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(name) from error

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    def _remove(self, name: str) -> None:
        remove(self.root / name)

    def _children(self, name: str) -> list[str]:
        try:
            return [item.name for item in (self.root / name).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _num_bytes(self, name: str) -> int:
        total = 0
        for base, _, files in os.walk(self.root / name):
            for file in files:
                # Whoever works there may remove it meanwhile.
                with suppress(FileNotFoundError):
                    total += (Path(base) / file).lstat().st_size
        return total

    def _sizes(self, manifest: Manifest) -> Mapping[str, int]:
        sizes = {}
        for name in manifest.files:
            with suppress(FileNotFoundError, NotADirectoryError):
                sizes[name] = (self._folder(manifest) / name).stat().st_size
        return sizes

    def _digest(self, manifest: Manifest, name: str) -> str:
        return file_digest(self._folder(manifest) / name)

    def _folder(self, manifest: Manifest) -> Path:
        return self.files(manifest.step, manifest.fingerprint)


class LocalStagedResult(StagedResult):
    """Files are written beside those of the committed result, and take their place by a change of name."""

    def __init__(self, place: Path, step: str, fingerprint: str, token: str) -> None:
        super().__init__(place, step, fingerprint, token)
        self._place = place

    def discard(self) -> None:
        """See `Draft`."""
        remove(self.out)

    def _publish(self, manifest: Manifest) -> Manifest:
        sync_tree(self.out)
        with locked(self._place):
            if not is_held(self._place, self._token):
                raise LeaseLostError(self.step)
            # Whatever lies there has no manifest, or a condemned one, which must go first.
            remove(self._place / "manifest.json")
            remove(self._place / "files")
            self.out.rename(self._place / "files")
            sync_folder(self._place)
            write_atomic(self._place / "manifest.json", manifest.to_json())
        (self._place / "failure.json").unlink(missing_ok=True)
        remove(self.checkpoint_dir)
        return manifest
