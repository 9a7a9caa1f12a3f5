"""Digests of the code that a step runs, and the versions of the packages that it uses.

The digest of a module covers its syntax tree without comments, docstrings and layout, and every project module that it
imports. Files are located and parsed, never imported, so a plan stays fast.
"""

from __future__ import annotations

import ast
import hashlib
import platform
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.errors import FingerprintError

# The engine's own code decides where a step runs, never what comes out of it.
NEVER_FOLLOWED = "cluster"
ALSO_FOLLOWED = {"pipelines": ("stages",)}


class CodeDigests:
    """Digests of modules, with a memory for the length of one plan."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[str, frozenset[str]] | None] = {}
        self._closures: dict[str, dict[str, str]] = {}

    def of(self, module: str) -> dict[str, str]:
        """Module -> digest, for `module` and every module of the project that it imports, directly or not.

        A module of `stages` draws in `stages.*` only, one of `pipelines` both; any other one its own top-level package.

        Raises:
            FingerprintError: there is no source file of `module`.
        """
        if module in self._closures:
            return self._closures[module]
        top = module.partition(".")[0]
        packages = {top, *ALSO_FOLLOWED.get(top, ())} - {NEVER_FOLLOWED}
        found: dict[str, str] = {}
        waiting = [module]
        while waiting:
            name = waiting.pop()
            about = self._module(name)
            if name in found or about is None:
                continue
            digest, imports = about
            found[name] = digest
            waiting += [item for item in imports if item.partition(".")[0] in packages]
        if module not in found:
            raise FingerprintError(
                f"the source of module {module} is not to be found.",
                "Define step functions in .py files on Python's path.",
            )
        self._closures[module] = dict(sorted(found.items()))
        return self._closures[module]

    def _module(self, name: str) -> tuple[str, frozenset[str]] | None:
        if name not in self._modules:
            path = _source_file(name)
            if path is None:
                self._modules[name] = None
            else:
                stat = path.stat()
                self._modules[name] = _read(path, name, stat.st_mtime_ns, stat.st_size)
        return self._modules[name]


@lru_cache(maxsize=4096)
def _read(path: Path, module: str, mtime_ns: int, size: int) -> tuple[str, frozenset[str]]:
    """Digest and imports of one file. Its time and size are there for the cache only."""
    del mtime_ns, size
    tree = ast.parse(path.read_bytes(), filename=str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports = frozenset(_imports(tree, package)) | frozenset(_parents(module))
    return hashlib.sha256(normal_form(tree).encode()).hexdigest(), imports


def normal_form(node: ast.AST) -> str:
    """The syntax tree as text, without docstrings, positions and empty fields.

    Python's own `ast.dump` changes with the version of Python as empty fields come and go; this does not.
    """
    parts = []
    for name, value in ast.iter_fields(node):
        if name in ("kind", "type_comment", "type_ignores"):
            continue
        if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            value = _without_docstring(value)
        if value is None or value == []:
            # None as a constant is a value; None as a field is its absence.
            if isinstance(node, ast.Constant):
                parts.append("value=None")
        elif isinstance(value, list):
            parts.append(f"{name}=[{','.join(_form(item) for item in value)}]")
        else:
            parts.append(f"{name}={_form(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _form(value: object) -> str:
    return normal_form(value) if isinstance(value, ast.AST) else f"{type(value).__name__}:{value!r}"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[1:] if isinstance(body[0].value.value, str) else body
    return body


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Names of modules that may be imported anywhere in the file, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, *_parents(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from (base, *_parents(base))
            # `from stages import loop` may name a module or a value; a value has no file and drops out later.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _parents(module: str) -> list[str]:
    """Packages whose `__init__` runs when `module` is imported."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _source_file(module: str) -> Path | None:
    """The .py file of a module; parents are found by their folders, and nothing is imported."""
    top, *rest = module.split(".")
    spec = PathFinder.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return _python(spec.origin)
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _python(origin: str | None) -> Path | None:
    return Path(origin) if origin and origin.endswith(".py") else None


PACKAGES = (
    "clozeline", "deepspeed", "mlflow", "numpy", "peft", "pydantic", "ray", "scikit-learn", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
"""What may change a result."""


@cache
def versions() -> dict[str, str]:
    """Python and the packages that may change a result, by name; those that are not installed are left out. Read once
    in each process, for reading it takes as long as a small step.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
