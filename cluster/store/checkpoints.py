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
Marks = dict[str, tuple[int, int, int]]


class Checkpoints:
    """The folder `work` of a step, and its copy below `name` in a store.

    Files go up under their sha256, and `work.json` after them: it names one moment's files, all of them there.
    """

    def __init__(self, objects: ObjectStore, name: str, checkpoint_dir: Path) -> None:
        self._objects = objects
        self._name = name
        self._work = checkpoint_dir
        self._saved: Marks = {}
        self._index: dict[str, str] = {}
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def restore(self) -> None:
        """Fetches the latest copy, if there is one. A copy with a missing or altered file is none."""
        try:
            index = json.loads(self._objects.read(f"{self._name}/work.json"))
        except (FileNotFoundError, ValueError):
            return
        part = self._work.with_name("work.part")
        remove(part)
        part.mkdir()
        try:
            if any(
                self._objects.download(f"{self._name}/work/{index[file]}", part / file) != index[file] for file in index
            ):
                return
        except FileNotFoundError:
            return
        remove(self._work)
        part.rename(self._work)
        self._index = index
        self._saved = _marks(self._work)

    def start(self) -> None:
        """Copies what changed, now and then."""
        self._thread = threading.Thread(target=self._keep_saving, name="checkpoints", daemon=True)
        self._thread.start()

    def stop(self, *, save: bool = True) -> None:
        """Ends the copying, after a last copy. May be called twice."""
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        self._thread = None
        if save:
            with suppress(OSError, StoreError):
                self.save()

    def save(self) -> bool:
        """Copies the folder as it is. Returns whether the copy is that of one moment.

        Raises:
            StoreError: the store is out of reach.
        """
        marks = _marks(self._work)
        if marks == self._saved:
            return True
        index: dict[str, str] = {}
        for file in marks:
            digest = file_digest(self._work / file)
            if digest not in self._index.values() and digest not in index.values():
                self._objects.upload(self._work / file, f"{self._name}/work/{digest}")
            index[file] = digest
        if _marks(self._work) != marks:
            # A checkpoint was written meanwhile; the next time will do.
            return False
        self._objects.write(f"{self._name}/work.json", json.dumps(index).encode())
        for digest in set(self._index.values()) - set(index.values()):
            self._objects.remove(f"{self._name}/work/{digest}")
        self._saved, self._index = marks, index
        return True

    def _keep_saving(self) -> None:
        while not self._done.wait(SAVE_EVERY_S):
            # A store out of reach: the step goes on, and the next time may do.
            with suppress(OSError, StoreError):
                self.save()


def _marks(folder: Path) -> Marks:
    """What tells whether files changed. Files in the making, by their names, are left out."""
    marks = {}
    for name in sorted_files(folder):
        if name.endswith((".part", ".tmp")) or Path(name).name.startswith("."):
            continue
        with suppress(FileNotFoundError):
            stat = (folder / name).stat()
            marks[name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return marks
