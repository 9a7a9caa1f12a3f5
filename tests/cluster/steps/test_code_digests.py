"""What counts in the digest of a module, and what does not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from cluster.errors import FingerprintError
from cluster.steps.code_digests import CodeDigests, normal_form, versions
from tests.support.paths import ROOT

EQUAL = {
    "docstrings": ('"""A."""\ndef f():\n    """B."""\n    return 1', "def f():\n    return 1"),
    "docstring of an attribute": ('class A:\n    x: int = 1\n    """X."""', "class A:\n    x: int = 1"),
    "layout and comments": ("x = (1 +  # one\n     2)", "x = 1 + 2"),
    "annotations of a function": (
        "def f(a: int, *b: str, c: bool = True) -> int:\n    pass",
        "def f(a, *b, c=True):\n    pass",
    ),
    "annotation of a local variable": (
        "def f():\n    x: int = 1\n    y: str\n    return x",
        "def f():\n    x = 1\n    return x",
    ),
    "annotation in a method": (
        "class A:\n    def f(self):\n        self.x: int = 1",
        "class A:\n    def f(self):\n        self.x = 1",
    ),
    "annotation of a variable of the module": ("x: int = 1", "x = 1"),
    "text in raise": (
        'raise E("a", "b" + c, "%s" % d, "".join(e), f"f{g}", key="k", code=3) from cause',
        'raise E("z", code=3) from cause',
    ),
    "text in a nested error": ('raise located(E("a"), path)', 'raise located(E("b", "c"), path)'),
    "text chosen in raise": ('raise E("a" if x else "b")', "raise E()"),
    "arguments of log_progress": ("r.log_progress(1, 2, phase='a')", "r.log_progress(3)"),
    "description of a field": ("class A:\n    x: int = Field(1, description='a')", "class A:\n    x: int = Field(1)"),
    "imports for annotations": ("if TYPE_CHECKING:\n    from a import B", "if typing.TYPE_CHECKING:\n    import c"),
}
DIFFERENT = {
    "annotation of a field": ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
    "field without a default": ("class A:\n    x: int", "class A:\n    pass"),
    "annotation in a nested class": (
        "def f():\n    class A:\n        x: int",
        "def f():\n    class A:\n        x: str",
    ),
    "field under a condition": ("class A:\n    if c:\n        x: int", "class A:\n    if c:\n        x: str"),
    "class of an error": ('raise E("a")', 'raise F("a")'),
    "value in raise": ("raise E(3)", "raise E(4)"),
    "bound of a field": ("class A:\n    x: int = Field(1, ge=0)", "class A:\n    x: int = Field(1, ge=1)"),
    "text that is not an error": ('log("a")', 'log("b")'),
    "returned text": ('def f():\n    return "a"', 'def f():\n    return "b"'),
    "None for zero": ("x = 0", "x = None"),
    "default": ("def f(a: int = 1):\n    pass", "def f(a: int = 2):\n    pass"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_normal_form_leaves_out(name: str) -> None:
    first, second = EQUAL[name]
    assert normal_form(ast.parse(first)) == normal_form(ast.parse(second))


@pytest.mark.parametrize("name", DIFFERENT)
def test_normal_form_has(name: str) -> None:
    first, second = DIFFERENT[name]
    assert normal_form(ast.parse(first)) != normal_form(ast.parse(second))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package: stage -> helper -> deep; stage -> plots -> colors; types is imported for annotations only."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / f"digested_{tmp_path.name.replace('-', '_')}"
    folder.mkdir()
    name = folder.name
    sources = {
        "__init__": "",
        "stage": f"from {name} import helper, plots\nfrom typing import TYPE_CHECKING\n"
        f"if TYPE_CHECKING:\n    from {name}.types import T\n",
        "helper": "def add():\n    from . import deep\n",
        "deep": "ZERO = 0\n",
        "plots": f"import {name}.colors\n",
        "colors": "RED = 1\n",
        "types": "T = int\n",
    }
    for module, text in sources.items():
        (folder / f"{module}.py").write_text(text)
    return name


def test_digests_cover_what_the_module_imports(package: str) -> None:
    digests = CodeDigests().of(f"{package}.stage")
    expected = ["", ".colors", ".deep", ".helper", ".plots", ".stage"]
    assert list(digests) == [f"{package}{module}" for module in expected]


def test_excluded_modules_and_their_imports_are_left_out(package: str) -> None:
    digests = CodeDigests([f"{package}.plots"]).of(f"{package}.stage")
    assert list(digests) == [f"{package}{module}" for module in ("", ".deep", ".helper", ".stage")]
    with_prefix = CodeDigests([f"{package}.plot"]).of(f"{package}.stage")
    assert f"{package}.plots" in with_prefix


def test_digests_cover_helper_modules_outside_the_package(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "stage.py").write_text(f"import {package}_helpers\nimport numpy, json\n")
    helpers = tmp_path / f"{package}_helpers.py"
    helpers.write_text(f"import {package}_more\nA = 1\n")
    (tmp_path / f"{package}_more.py").write_text("B = 1\n")
    before = CodeDigests().of(f"{package}.stage")
    assert list(before) == [package, f"{package}.stage", f"{package}_helpers", f"{package}_more"]
    helpers.write_text("A = 222\n")
    assert CodeDigests().of(f"{package}.stage") != before


def test_packages_of_another_environment_are_installed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "environment" / "site-packages"
    folder.mkdir(parents=True)
    (folder / f"{package}_installed.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(folder)
    (tmp_path / package / "stage.py").write_text(f"import {package}_installed\n")
    assert list(CodeDigests().of(f"{package}.stage")) == [package, f"{package}.stage"]


@pytest.mark.parametrize(
    "code",
    [
        "from pathlib import Path\nWORDS = Path(__file__).with_name('words.txt')",
        "from importlib.resources import files",
        "import importlib.resources",
        "from importlib import resources",
        "def f():\n    import pkgutil",
    ],
)
def test_digests_cover_the_data_of_a_package_that_reads_them(package: str, tmp_path: Path, code: str) -> None:
    folder = tmp_path / package
    words = folder / "words.txt"
    words.write_text("a")
    assert f"{package}/words.txt" not in CodeDigests().of(f"{package}.deep"), "it reads no file"
    (folder / "deep.py").write_text(f"{code}\n")
    (folder / "py.typed").touch()
    (folder / ".hidden").touch()
    digests = CodeDigests()
    before = digests.of(f"{package}.deep")
    assert list(before) == [package, f"{package}.deep", f"{package}/words.txt"]
    assert list(digests.marks(f"{package}.deep")) == [folder / "__init__.py", folder / "deep.py", words]
    words.write_text("bbb")
    assert CodeDigests().of(f"{package}.deep") != before


DATA = {
    "in a folder of the package": ("P/sub/deep.py", "{here}.joinpath('x')", "P/sub/words/de/list.txt"),
    "by its name in the package": ("P/deep.py", "files('{P}').joinpath('words/list.txt')", "P/words/list.txt"),
    "in the folder around the package": ("P/sub/deep.py", "{here}.parent / 'words' / 'list.txt'", "P/words/list.txt"),
    "next to the package": ("P/deep.py", "{here}.joinpath('../list.txt')", "list.txt"),
    "in a package that a text names": ("P/deep.py", "files('{P}.sub') / 'list.txt'", "P/sub/list.txt"),
    "in a package that is imported": ("P/deep.py", "Path(sub.__file__).with_name('list.txt')", "P/sub/list.txt"),
    "next to a module without a package": ("P_flat.py", "{here} / 'list.txt'", "list.txt"),
    "in a folder next to such a module": ("P_flat.py", "{here}.joinpath('words', 'list.txt')", "words/list.txt"),
}


@pytest.mark.parametrize("where", DATA)
def test_digests_cover_data(where: str, package: str, tmp_path: Path) -> None:
    module, expression, data = DATA[where]
    module, data = module.replace("P", package), data.replace("P", package)
    (tmp_path / package / "sub").mkdir()
    (tmp_path / package / "sub" / "__init__.py").touch()
    expression = expression.format(P=package, here="Path(__file__).parent")
    imports = f"from importlib.resources import files\nfrom pathlib import Path\nfrom {package} import sub\n"
    (tmp_path / module).write_text(f"{imports}WORDS = {expression}\n")
    file = tmp_path / data
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a")
    (file.parent / "list.pyc").touch()
    (file.parent / "unnamed.bin").touch()
    name = module.removesuffix(".py").replace("/", ".")
    digests = CodeDigests()
    before = digests.of(name)
    entry = data if "/" in data else f"./{data}"
    assert entry in before
    assert file in digests.marks(name)
    assert not [item for item in before if item.endswith(".pyc")]
    file.write_text("bbb")
    assert {item for item, digest in CodeDigests().of(name).items() if before[item] != digest} == {entry}


def test_digests_leave_out_data_that_a_module_cannot_name(package: str, tmp_path: Path) -> None:
    """A folder next to the code may have gigabytes."""
    for folder in ("data", f"{package}/sub"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "large.bin").write_text("a")
    (tmp_path / package / "sub" / "__init__.py").touch()
    (tmp_path / "other.txt").write_text("a")
    (tmp_path / package / "deep.py").write_text(f"HERE, LONG = __file__, ['data', '', '/', '..', {'x' * 300!r}]\n")
    assert list(CodeDigests().of(f"{package}.deep")) == [package, f"{package}.deep"]


def test_digests_never_cover_the_engine() -> None:
    assert list(CodeDigests().of("tests.support.steps")) == ["tests", "tests.support", "tests.support.steps"]
    assert not [name for name in CodeDigests().of("tests.support.training_steps") if name.startswith("cluster")]
    stage = CodeDigests().of("stages.common.protocols")
    assert stage and all(name.partition(".")[0] == "stages" for name in stage)


def test_digest_of_a_module_without_a_file_raises_an_error() -> None:
    with pytest.raises(FingerprintError, match="cannot find the source file of module 'sys'"):
        CodeDigests().of("sys")


def test_digests_import_nothing() -> None:
    before = set(sys.modules)
    assert (ROOT / "stages/pet/stage.py").exists() and CodeDigests().of("stages.pet.stage")
    assert not {name for name in set(sys.modules) - before if name.startswith("stages")}


def test_versions_list_the_libraries_that_compute() -> None:
    assert {"python", "numpy", "torch", "transformers"} <= set(versions())
