"""Walks the import graph of the packages, without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("pipelines", "stages", "cluster")


@dataclass(frozen=True)
class Module:
    """One module.

    Args:
        name: Its dotted name.
        path: Its file.
        imports: Full names of all imports, also those inside functions and under TYPE_CHECKING. An import of a name
            from a module of the project is the import of that module.
    """

    name: str
    path: Path
    imports: frozenset[str]

    @property
    def is_package(self) -> bool:
        """True for an `__init__.py`."""
        return self.path.name == "__init__.py"


@cache
def tree(path: Path) -> ast.Module:
    """Returns the syntax tree of a file."""
    return ast.parse(path.read_text())


@cache
def modules() -> Mapping[str, Module]:
    """Returns all modules of the packages, by name."""
    paths = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    return {name: Module(name, path, frozenset(_imports(path, paths.keys()))) for name, path in paths.items()}


def graph() -> dict[str, set[str]]:
    """Returns module -> the modules of the project that it imports."""
    known = modules()
    return {name: {item for item in module.imports if item in known and item != name} for name, module in known.items()}


def reachable(name: str) -> set[str]:
    """Returns all imports of a module and of the project's modules that it imports, directly or not."""
    known = modules()
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        module = known.get(waiting.pop())
        if module is not None:
            waiting += module.imports - reached
            reached |= module.imports
    return reached


def cycles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Returns the groups of nodes that reach each other (Tarjan's strongly connected components of two or more)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in edges:
        if node not in order:
            visit(node)
    return groups


def folder(module: str) -> str:
    """Returns the part of a package that a module belongs to.

    It is `pipelines.run`, `cluster.store`, a stage such as `stages.pet`, `stages.common` for its single modules, or a
    folder of it such as `stages.common.models`.
    """
    parts = module.split(".")
    is_common_folder = parts[:2] == ["stages", "common"] and len(parts) > 3
    return ".".join(parts[: 3 if is_common_folder else 2])


def _imports(path: Path, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide what is imported"
            assert node.module is not None
            for item in node.names:
                full = f"{node.module}.{item.name}"
                yield full if full in known else node.module
