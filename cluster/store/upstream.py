"""The results that a step reads, for all of its processes.

Each machine has them in other folders if the store is at a URL, and fetches them once, when it first needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.store.location import open_store
from cluster.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Upstream:
    """The manifests of upstream steps in the order of the arguments of a task, in the store at `url`."""

    url: str
    manifests: tuple[Manifest, ...] = ()

    def folders(self) -> list[Path]:
        """Returns a folder on this machine for every result."""
        return [self.folder(index) for index in range(len(self.manifests))]

    def folder(self, index: int) -> Path:
        """Returns a folder on this machine with the files of a result."""
        return open_store(self.url).files_of(self.manifests[index])
