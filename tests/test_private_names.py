"""Private names of Ray, DeepSpeed and fsspec: each one is listed and exists, and the version has an upper bound."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LIBRARIES = ("ray", "deepspeed", "fsspec", "s3fs", "gcsfs", "adlfs")
HANDLES = ("_fs", "_ray")
"""Attributes in which objects keep a file system of fsspec, or the module of Ray."""
USED = {
    ("cluster/run/ray_session.py", "ray._private.state"),
    ("cluster/run/ray_session.py", "ray._private.worker"),
    ("cluster/parallel/launcher.py", "ray.train.torch.config._TorchBackend"),
    ("cluster/parallel/launcher.py", "super()._register_sigint_handler"),
}
"""Ray prints messages of the raylet into the display, its trainer replaces the handlers of signals, and nothing public
says what is free on each machine.
"""


def private_names(path: Path) -> Iterator[str]:
    """Yields the private names of the libraries that a module uses."""
    tree = ast.parse(path.read_text())
    aliases = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [(f"{node.module}.{item.name}", item.asname or item.name) for item in node.names]
        elif isinstance(node, ast.Import):
            names = [(item.name, item.asname or item.name.partition(".")[0]) for item in node.names]
        for name, alias in names:
            if name.partition(".")[0] in LIBRARIES:
                aliases.add(alias)
                if any(part.startswith("_") for part in name.split(".")):
                    yield name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        owners = list(_chain(node.value))
        is_of_library = isinstance(owners[-1], ast.Name) and owners[-1].id in aliases
        has_handle = any(isinstance(owner, ast.Attribute) and owner.attr in HANDLES for owner in owners)
        if is_of_library or has_handle or (aliases and ast.unparse(node.value) == "super()"):
            yield ast.unparse(node)


def _chain(node: ast.expr) -> Iterator[ast.expr]:
    """Yields a.b().c[0], a.b().c, a.b(), a.b and a for the first one."""
    yield node
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
        yield node


def test_private_names_are_listed() -> None:
    paths = [path for package in ("cluster", "pipelines", "stages") for path in (ROOT / package).rglob("*.py")]
    found = {(path.relative_to(ROOT).as_posix(), name) for path in paths for name in private_names(path)}
    assert found == USED


def test_scan_finds_private_names(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import ray.util as u\nfrom fsspec import _x\nu._y()\nself._fs._token\nself._own\nsuper()._hook()\n"
        "u.a._b\nu.a.b._c.d\nu.a()._d\nu.a[0].b._e\nself._fs.a._f\nself._own._g\nother.u._h\nu.__all__\n"
    )
    direct = ["fsspec._x", "self._fs._token", "super()._hook", "u._y"]
    chains = ["self._fs.a._f", "u.a()._d", "u.a._b", "u.a.b._c", "u.a[0].b._e"]
    assert sorted(private_names(path)) == sorted(direct + chains)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("ray._private.worker", "print_to_stdstream"),
        ("ray.train.torch.config", "_TorchBackend"),
        ("ray.train.torch", "TorchTrainer._register_sigint_handler"),
    ],
)
def test_private_name_exists(module: str, name: str) -> None:
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    assert callable(value)


def test_ray_has_an_upper_bound() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    bounds = re.findall(r'"ray\[[\w,]+\]([^"]*)"', text)
    assert bounds and set(bounds) == {">=2.60,<2.61"}
