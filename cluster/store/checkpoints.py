"""Copies checkpoints of a running step to a remote store, so that another machine can continue the step."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path

from cluster.errors import StoreError
from cluster.store.files import file_digest, remove, sorted_files
from cluster.store.object_store import ObjectStore

SAVE_EVERY_S = 30.0
FileMarks = dict[str, tuple[int, int, int]]
"""Relative path -> size, modification time and inode: equal marks mean an unchanged file."""
Index = dict[str, str]
"""Relative path -> sha256 of the files of one copy."""


class Checkpoints:
    """The checkpoint folder of a step and its copy below `name` in a store.

    Files are uploaded as `work/<sha256>`, and `work.json` after them. It lists the files of one moment, all of which
    are in the store.
    """

    def __init__(self, objects: ObjectStore, name: str, checkpoint_dir: Path) -> None:
        self._objects = objects
        self._name = name
        self._checkpoint_dir = checkpoint_dir
        self._saved_marks: FileMarks = {}
        self._index: Index = {}
        """The copy in the store."""
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def restore(self) -> None:
        """Downloads the latest copy, if there is one. Ignores a copy with a missing or changed file."""
        self.fetch(self.latest())

    def latest(self) -> Index:
        """Returns the files of the latest copy; none if there is no readable copy."""
        try:
            return dict(json.loads(self._objects.read(f"{self._name}/work.json")))
        except (FileNotFoundError, ValueError):
            return {}

    def fetch(self, index: Index) -> bool:
        """Downloads a copy, if it has files. Returns False, and changes nothing, if one is missing or changed."""
        if not index:
            return True
        part = self._checkpoint_dir.with_name("work.part")
        remove(part)
        part.mkdir()
        try:
            for file, digest in index.items():
                if self._objects.download(f"{self._name}/work/{digest}", part / file) != digest:
                    return False
        except FileNotFoundError:
            return False
        remove(self._checkpoint_dir)
        part.rename(self._checkpoint_dir)
        self._index = index
        self._saved_marks = _marks(self._checkpoint_dir)
        return True

    def start(self) -> None:
        """Starts to upload changes periodically."""
        self._thread = threading.Thread(target=self._keep_saving, name="checkpoints", daemon=True)
        self._thread.start()

    def stop(self, *, save: bool = True) -> None:
        """Stops the uploads after a last one. May be called twice."""
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        self._thread = None
        if save:
            with suppress(OSError, StoreError):
                self.save()

    def save(self) -> bool:
        """Uploads the folder as it is now. Returns False if a file changed in the meantime.

        Raises:
            StoreError: the store is unreachable.
        """
        marks = _marks(self._checkpoint_dir)
        if marks == self._saved_marks:
            return True
        index: Index = {}
        for file in marks:
            digest = file_digest(self._checkpoint_dir / file)
            if digest not in self._index.values() and digest not in index.values():
                self._objects.upload(self._checkpoint_dir / file, f"{self._name}/work/{digest}")
            index[file] = digest
        if _marks(self._checkpoint_dir) != marks:
            # A checkpoint was written during the upload; the next call will upload it.
            return False
        self._objects.write(f"{self._name}/work.json", json.dumps(index).encode())
        for digest in set(self._index.values()) - set(index.values()):
            self._objects.remove(f"{self._name}/work/{digest}")
        self._saved_marks, self._index = marks, index
        return True

    def _keep_saving(self) -> None:
        while not self._done.wait(SAVE_EVERY_S):
            # If the store is unreachable, the step continues and the next upload may succeed.
            with suppress(OSError, StoreError):
                self.save()


def _marks(folder: Path) -> FileMarks:
    """Returns the marks of all files, except unfinished ones, which their names show."""
    marks = {}
    for name in sorted_files(folder):
        if name.endswith((".part", ".tmp")) or Path(name).name.startswith("."):
            continue
        with suppress(FileNotFoundError):
            stat = (folder / name).stat()
            marks[name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return marks
