"""Runs `clozeline` as if only the packages of a requirements file were installed, with what these require.

    few_packages.py REQUIREMENTS PREDICT-FOLDER INPUT OUTPUT SERVE-ARGUMENT...

First predicts a file with the model of a folder, then serves.
"""

from __future__ import annotations

import importlib.machinery
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from packaging.requirements import Requirement


def installed(names: Sequence[str]) -> set[str]:
    """Returns the normalized names of packages and of those that they require."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        key = f"{normalized(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found.add(key)
        for line in package_requirements(requirement.name):
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return {key.partition("[")[0] for key in found}


def package_requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # of another platform
        return []


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def hidden_modules(requirements: Path) -> Iterator[str]:
    """Yields the modules of all other packages."""
    lines = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    kept = installed(lines)
    for module, packages in packages_distributions().items():
        if not {normalized(package) for package in packages} & kept:
            yield module


class Hider(importlib.machinery.PathFinder):
    """Finds no module of the other packages."""

    hidden: ClassVar[set[str]] = set()

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name.partition(".")[0] in cls.hidden:
            return None
        return super().find_spec(name, path, target)


def main() -> None:
    requirements, folder, source, output, *arguments = sys.argv[1:]
    Hider.hidden = set(hidden_modules(Path(requirements)))
    assert {"ray", "deepspeed", "mlflow", "pandas", "datasets"} <= Hider.hidden
    sys.meta_path[:] = [Hider if item is importlib.machinery.PathFinder else item for item in sys.meta_path]
    from pipelines.cli.app import main as clozeline

    sys.argv = ["clozeline", "predict", folder, "--input", source, "--output", output]
    try:
        clozeline()
    except SystemExit as end:
        assert not end.code
    sys.argv = ["clozeline", "serve", *arguments]
    clozeline()


if __name__ == "__main__":
    main()
