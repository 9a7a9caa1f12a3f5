"""Functions of a step that travel to other machines with the paths of the results that they read.

A stage binds the folders of its inputs to the functions of a stream. Where they arrive, the same result is in another
folder, or not fetched yet. So a path below the folder of a result is replaced by the result and the rest of the path.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.store.upstream import Upstream

Reference = tuple[int, str]
"""The index of a result of `Upstream`, and a path in its folder."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A pickled value. Its functions and classes are those of modules."""

    data: bytes
    upstream: Upstream

    @classmethod
    def of(cls, value: Any, upstream: Upstream) -> Carried:
        """Pickles a value. Raises what pickle raises for a value that cannot be pickled."""
        buffer = io.BytesIO()
        _Pickler(buffer, upstream.folders()).dump(value)
        return cls(buffer.getvalue(), upstream)

    def load(self) -> Any:
        """Returns the value, with the folders of this machine, which are fetched if need be."""
        return _Unpickler(io.BytesIO(self.data), self.upstream).load()


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, folders: list[Path]) -> None:
        super().__init__(buffer)
        self._folders = folders

    def persistent_id(self, obj: Any) -> Reference | None:
        if isinstance(obj, Path):
            for index, folder in enumerate(self._folders):
                if obj.is_relative_to(folder):
                    return index, obj.relative_to(folder).as_posix()
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, upstream: Upstream) -> None:
        super().__init__(buffer)
        self._upstream = upstream

    def persistent_load(self, pid: Reference) -> Path:
        index, rest = pid
        return self._upstream.folder(index) / rest
