"""Makes workers import this program's own code, whatever packages the current folder of the driver has.

Ray puts that folder first on the path of a worker when the worker receives its first task, before it unpickles the
task. A package `cluster` or `stages` there would replace the one of this program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

ROOT = str(Path(__file__).parents[2])


class OwnCodeFinder:
    """Finds modules in the folder of this program before any other folder, wherever it is on the path."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Finds a module that is in no package. See `importlib.abc.MetaPathFinder`."""
        del target
        return PathFinder.find_spec(name, [ROOT]) if path is None else None


def import_own_code_first() -> None:
    """Puts the folder of this program before all others, as on the driver. Called in each worker."""
    if OwnCodeFinder not in sys.meta_path:
        sys.meta_path.insert(0, OwnCodeFinder)
    sys.path[:] = [ROOT, *(item for item in sys.path if item != ROOT)]
