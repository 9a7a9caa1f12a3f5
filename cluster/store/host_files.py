"""The files of a step's workers on one machine, for a store at a URL: machines share no folder.

<scratch of the step>/workers/<start>/
    files/    what rank 0 writes, which it uploads at the end
    work/     checkpoints, which all workers of the machine share

Rank 0 copies its checkpoints to the store while it runs. When the workers start, every machine fetches the copy that
rank 0 names, so all of them continue from the same checkpoint, whichever machine was lost.
"""

from __future__ import annotations

from pathlib import Path

from cluster.store.checkpoints import Checkpoints, Index
from cluster.store.files import remove
from cluster.store.manifest import FileEntry, file_entries
from cluster.store.object_store import ObjectStore


class HostFiles:
    """The folders of one start of the workers.

    Args:
        objects: The objects of the store.
        name: Name of the result in the store.
        folder: The folder of this machine for all starts of the workers.
        target: Name of the folder for the files of this attempt, below `name`.
    """

    def __init__(self, objects: ObjectStore, name: str, folder: Path, target: str) -> None:
        self._objects = objects
        self._name = name
        self._folder = folder
        self._target = target
        self._checkpoints: Checkpoints | None = None
        self.out = folder
        self.checkpoint_dir = folder

    def latest_checkpoint(self) -> Index:
        """Returns the files of the latest checkpoint in the store; none if there is no checkpoint."""
        return Checkpoints(self._objects, self._name, self.checkpoint_dir).latest()

    def open(self, start: str) -> None:
        """Selects the folders of a start, which may have been created."""
        self.out, self.checkpoint_dir = (self._folder / start / name for name in ("files", "work"))

    def create(self, checkpoint: Index) -> bool:
        """Creates the folders, and removes those of earlier starts. Only one worker of each machine calls it.

        Returns False, and leaves the folder of the checkpoint empty, if the checkpoint cannot be fetched.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for abandoned in self._folder.iterdir():
            remove(abandoned)
        for folder in (self.out, self.checkpoint_dir):
            folder.mkdir(parents=True)
        self._checkpoints = Checkpoints(self._objects, self._name, self.checkpoint_dir)
        return self._checkpoints.fetch(checkpoint)

    def forget_checkpoint(self) -> None:
        """Empties the folder of checkpoints, because another machine could not fetch them."""
        remove(self.checkpoint_dir)
        self.checkpoint_dir.mkdir()
        self._checkpoints = Checkpoints(self._objects, self._name, self.checkpoint_dir)

    def keep_checkpoints(self) -> None:
        """Starts to copy checkpoints to the store. Only rank 0 calls it, after `create`."""
        assert self._checkpoints is not None
        self._checkpoints.start()

    def save_checkpoint(self) -> None:
        """Copies the checkpoint that is there now, and no later one."""
        if self._checkpoints is not None:
            self._checkpoints.stop()

    def upload(self) -> dict[str, FileEntry]:
        """Uploads the files of rank 0. The process of the step commits them."""
        entries = file_entries(self.out)
        self._objects.upload_all(self.out, entries, f"{self._name}/{self._target}")
        return entries

    def remove(self) -> None:
        """Removes the folders of this machine, when none of its workers needs them."""
        if self._checkpoints is not None:
            self._checkpoints.stop(save=False)
        remove(self.out.parent)
