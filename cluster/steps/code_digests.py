"""Digests of the code that a step runs, and the versions of the packages that it uses.

The digest of a module covers what the module computes, and every module that it imports and that is not installed: the
modules of the project, and helper modules next to it. If a module reads files, those of its package count too, with
those in folders of it, and files outside of it that its texts name: in the folders around it, up to that of the Python
path, and in packages that it imports or names. It leaves out what cannot change a result: comments, docstrings (also
those of fields), layout, annotations of functions and variables (annotations in a class body count, because pydantic
and dataclasses read them), the texts in `raise` statements and in calls of `log_progress`, and the description of a
pydantic field. The caller can exclude further modules.

Files are located and parsed, never imported, and what they contain is kept by their content, so a plan stays fast.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.errors import FingerprintError
from cluster.steps.parsed_files import ParsedFile, parsed_files
from cluster.store.files import FileMark, file_digest

# The code of the engine decides where a step runs. What it computes has a version, `cluster.arithmetic`.
NEVER_FOLLOWED = "cluster"
ALSO_FOLLOWED = {"pipelines": ("stages",)}
OWN_PACKAGES = ("cluster", "stages", "pipelines")
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Folders of installed packages, whose versions count instead of their code."""
INSTALLED_NAMES = frozenset({"site-packages", "dist-packages"})
"""Names of such folders of users and of other environments."""
DATA_MODULES = frozenset({"importlib.resources", "pkgutil"})
LOCATIONS = frozenset({"__file__", "__path__"})
"""Names with which a module finds files next to it, or next to another one."""
MAX_NAME, MAX_DEPTH = 255, 5
"""Longer texts are no names of files, and no path is joined from more parts."""
CODE_SUFFIXES = (".py", ".pyc", ".pyi", ".so")


class CodeDigests:
    """Digests of modules, remembered for the duration of one plan.

    Args:
        excluded_modules: Modules and packages that cannot change a result. Neither they nor what only they import
            counts.
    """

    def __init__(self, excluded_modules: Collection[str] = ()) -> None:
        self._excluded = tuple(excluded_modules)
        self._modules: dict[str, _Module | None] = {}
        self._closures: dict[str, dict[str, str]] = {}

    def of(self, module: str) -> dict[str, str]:
        """Returns module -> digest, for `module` and every module that it imports, directly or not.

        Of the packages of this program, only `stages.*` is followed from a module of `stages`, and both from one of
        `pipelines`. Of other modules, those of the same top-level package are followed, and all that are not
        installed. A file that they read has an entry of its own, such as `words/list.txt`; one that is next to a module
        outside a package begins with `./`.

        Raises:
            FingerprintError: `module` has no source file.
        """
        if module in self._closures:
            return self._closures[module]
        top = module.partition(".")[0]
        packages = {top, *ALSO_FOLLOWED.get(top, ())} - {NEVER_FOLLOWED}
        digests: dict[str, str] = {}
        waiting = [module]
        while waiting:
            name = waiting.pop()
            parsed = self._module(name)
            if name in digests or parsed is None:
                continue
            digests[name] = parsed.digest
            digests |= {file: data.digest for file, data in self._data(name, parsed).items()}
            waiting += [
                item
                for item in parsed.imports
                if (item.partition(".")[0] in packages or _is_helper(item)) and not is_inside(item, self._excluded)
            ]
        if module not in digests:
            raise FingerprintError(
                f"cannot find the source file of module {module!r}.",
                "Define step functions in a .py file on the Python path.",
            )
        parsed_files(Path(__file__)).save()
        self._closures[module] = dict(sorted(digests.items()))
        return self._closures[module]

    def marks(self, module: str) -> dict[Path, FileMark]:
        """Returns the files whose digests `of` returns, each with its mark before it was read."""
        files = [self._modules[name] for name in self.of(module)]
        return {item.path: item.mark for item in files if item is not None}

    def _data(self, name: str, module: _Module) -> dict[str, _Module]:
        """Returns the files that a module may read, by their paths in the folder of the Python path."""
        if not module.reads_data:
            return {}
        root = _root(module.path, name)
        files = {}
        for path in sorted({*_package_files(module.path.parent), *self._named_files(module, root)}):
            relative = path.relative_to(root).as_posix()
            files[relative if "/" in relative else f"./{relative}"] = _read_data(path, FileMark.of(path))
        self._modules |= files
        return files

    def _named_files(self, module: _Module, root: Path) -> Iterator[Path]:
        """Yields the files that the texts of a module name."""
        folders = [folder for folder in module.path.parents if folder.is_relative_to(root)]
        for name in sorted({*module.imports, *module.texts}):
            package = root.joinpath(*name.split("."))
            if name.replace(".", "").isidentifier() and (package / "__init__.py").is_file():
                folders.append(package)
        names = [name for text in module.texts if (name := _relative_name(text))]
        for folder in folders:
            yield from _named_in(folder, names)

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = _source_file(name)
            self._modules[name] = None if path is None else _read(path, name, FileMark.of(path))
        return self._modules[name]


@dataclass(frozen=True, slots=True)
class _Module:
    """One file: the mark that it had before it was read, its digest, what it imports, and see `ParsedFile`."""

    path: Path
    mark: FileMark
    digest: str
    imports: frozenset[str] = frozenset()
    reads_data: bool = False
    texts: tuple[str, ...] = ()


def is_inside(module: str, packages: Collection[str]) -> bool:
    """Returns True if `module` is one of `packages` or inside one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
"""Nodes that may contain statements."""


@lru_cache(maxsize=4096)
def _read(path: Path, module: str, mark: FileMark) -> _Module:
    """Reads one file, once for each mark."""
    content = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    parsed = parsed_files(Path(__file__)).get(content, package, lambda: _parse(content, package, path))
    imports = frozenset(parsed.imports) | frozenset(_parents(module))
    return _Module(path, mark, parsed.digest, imports, reads_data=parsed.reads_data, texts=parsed.texts)


def _parse(content: bytes, package: str, path: Path) -> ParsedFile:
    tree = ast.parse(content, filename=str(path))
    imports = sorted(set(_imports(tree, package)))
    digest = hashlib.sha256(normal_form(tree).encode()).hexdigest()
    reads_data = _reads_data(tree, imports)
    return ParsedFile(digest, tuple(imports), reads_data, _texts(tree) if reads_data else ())


@lru_cache(maxsize=4096)
def _read_data(path: Path, mark: FileMark) -> _Module:
    """Reads one file of a package, once for each mark."""
    return _Module(path, mark, file_digest(path))


def _reads_data(tree: ast.AST, imports: Collection[str]) -> bool:
    """Returns True if a module may read files next to it, or next to another module."""
    if not DATA_MODULES.isdisjoint(imports):
        return True
    return any(_last_name(node) in LOCATIONS for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute)))


def _texts(tree: ast.AST) -> tuple[str, ...]:
    """Returns the texts in a module that may be names of files."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return tuple(sorted(text for text in texts if text.isprintable() and len(text.encode()) <= MAX_NAME))


def _relative_name(text: str) -> str:
    """Returns a text as the name of a file in a folder; empty if it is none. The folders around it are searched too."""
    parts = text.strip("/").split("/")
    while parts[:1] in ([".."], ["."]):
        del parts[0]
    return "" if ".." in parts else "/".join(parts)


def _root(path: Path, module: str) -> Path:
    """Returns the folder of the Python path that has a module."""
    num_folders = module.count(".") + (path.name == "__init__.py")
    return path.parents[num_folders]


def _package_files(folder: Path) -> Iterator[Path]:
    """Yields the files of a package that are not code, without those of packages in it."""
    if not (folder / "__init__.py").exists():
        return
    for base, folders, names in os.walk(folder, followlinks=True):
        inner = [name for name in folders if name[0] != "." and not Path(base, name, "__init__.py").exists()]
        folders[:] = inner
        yield from (path for name in names if name[0] != "." and _is_data(path := Path(base, name)))


def _named_in(folder: Path, names: Collection[str], depth: int = 1) -> Iterator[Path]:
    """Yields the files in a folder that have one of these names, also in folders in it that have one."""
    for name in names:
        path = folder / name
        if _is_data(path):
            yield path
        elif depth < MAX_DEPTH and os.path.isdir(path):  # noqa: PTH112  (False for a folder that cannot be read)
            yield from _named_in(path, names, depth + 1)


def _is_data(path: Path) -> bool:
    is_code = path.suffix in CODE_SUFFIXES or path.name == "py.typed"
    return not is_code and os.path.isfile(path)  # noqa: PTH113  (False for a path that cannot be read)


def _is_helper(module: str) -> bool:
    """Returns True for a module that is neither installed nor part of this program."""
    top = module.partition(".")[0]
    is_own = top in OWN_PACKAGES or top in sys.stdlib_module_names
    return not is_own and not _is_installed(top, tuple(sys.path))


@lru_cache
def _is_installed(name: str, path: tuple[str, ...]) -> bool:
    """Returns True for a top-level package in a folder of installed ones, and for one that does not exist."""
    spec = _package_spec(name, path)
    if spec is None:
        return True
    files = [Path(file) for file in (spec.origin, *(spec.submodule_search_locations or ())) if file]
    return any(
        not INSTALLED_NAMES.isdisjoint(file.parts) or any(file.is_relative_to(folder) for folder in INSTALLED)
        for file in files
    )


def normal_form(node: ast.AST, *, in_class: bool = False) -> str:
    """Returns the syntax tree as text, without positions, empty fields and all that cannot change a result.

    The output of `ast.dump` differs between versions of Python because empty fields come and go; this one does not.

    Args:
        node: The tree.
        in_class: The node is part of a class body, so its annotations count.
    """
    if isinstance(node, ast.AnnAssign) and not in_class and node.value is not None:
        node = ast.Assign(targets=[node.target], value=node.value)
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        in_class = isinstance(node, ast.ClassDef)
    parts = []
    for name, value in _counted_fields(node).items():
        if isinstance(value, list):
            items = [item for item in value if not _is_ignored(item, in_class)]
            if items:
                parts.append(f"{name}=[{','.join(_form(item, in_class) for item in items)}]")
        # None as a constant is a value; None as a field is its absence.
        elif value is not None or isinstance(node, ast.Constant):
            parts.append(f"{name}={_form(value, in_class)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _form(value: object, in_class: bool) -> str:
    return normal_form(value, in_class=in_class) if isinstance(value, ast.AST) else f"{type(value).__name__}:{value!r}"


def _counted_fields(node: ast.AST) -> dict[str, object]:
    """Returns the fields of a node that count."""
    fields = {
        name: value for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment", "type_ignores")
    }
    if isinstance(node, ast.arg):
        del fields["annotation"]
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        del fields["returns"]
    elif isinstance(node, ast.If) and _is_type_checking(node):
        fields = {"orelse": node.orelse}
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        fields["exc"] = _without_texts(node.exc)
    elif isinstance(node, ast.Call):
        name = _last_name(node.func)
        if name == "log_progress":
            fields |= {"args": [], "keywords": []}
        elif name == "Field":
            fields["keywords"] = [item for item in node.keywords if item.arg != "description"]
    return fields


def _is_ignored(node: object, in_class: bool) -> bool:
    """Returns True for a docstring, and for a variable outside a class body that is annotated and not set."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.AnnAssign) and node.value is None and not in_class


def _without_texts(call: ast.Call) -> ast.Call:
    """Returns the call in a `raise` statement without its texts; other arguments may decide what the caller does."""
    return ast.Call(
        func=call.func,
        args=[_without_texts(item) if isinstance(item, ast.Call) else item for item in call.args if not _is_text(item)],
        keywords=[item for item in call.keywords if not _is_text(item.value)],
    )


def _is_text(node: ast.expr) -> bool:
    """Returns True for a string, an f-string, and what is put together from them."""
    match node:
        case ast.JoinedStr() | ast.Constant(value=str()):
            return True
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            return _is_text(node.left) or _is_text(node.right)
        case ast.IfExp():
            return _is_text(node.body) and _is_text(node.orelse)
        case ast.Call(func=ast.Attribute(value=value, attr="format" | "join")):
            return _is_text(value)
    return False


def _is_type_checking(node: ast.If) -> bool:
    return _last_name(node.test) == "TYPE_CHECKING"


def _last_name(node: ast.expr) -> str:
    """Returns `name` for `name`, `a.name` and `a().name`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yields the names of modules that the file may import when it runs, inside functions too."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        children = node.orelse if isinstance(node, ast.If) and _is_type_checking(node) else ast.iter_child_nodes(node)
        # Expressions contain no imports, and most nodes are expressions.
        waiting += [child for child in children if isinstance(child, STATEMENTS)]
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, *_parents(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from (base, *_parents(base))
            # `from stages import loop` may name a module or a value; a value has no file and is dropped later.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _parents(module: str) -> list[str]:
    """Returns the packages whose `__init__` runs when `module` is imported."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _source_file(module: str) -> Path | None:
    """Returns the .py file of a module. It follows folders, so it imports nothing."""
    top, *rest = module.split(".")
    spec = _package_spec(top, tuple(sys.path))
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


@lru_cache
def _package_spec(name: str, path: tuple[str, ...]) -> ModuleSpec | None:
    """Finds a top-level package on the Python path."""
    return PathFinder.find_spec(name, list(path))


def _python(origin: str | None) -> Path | None:
    return Path(origin) if origin and origin.endswith(".py") else None


PACKAGES = (
    "clozeline", "deepspeed", "mlflow", "numpy", "peft", "pydantic", "ray", "scikit-learn", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
"""Packages that may change a result."""


@cache
def versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that may change a result, by name.

    A process reads them once, because reading takes as long as a small step.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
