"""Tests that the tests mirror the code, and that light tests start without torch and Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAX_LINES = 500
PACKAGES = ("pipelines", "stages", "cluster", "benchmarks")
FOLDERS = sorted({path.parent for package in PACKAGES for path in (ROOT / "tests" / package).rglob("test_*.py")})


def test_modules_are_short() -> None:
    modules = [path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")]

    assert [path for path in modules if len(path.read_text().splitlines()) > MAX_LINES] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_folder_of_tests_mirrors_code(folder: Path) -> None:
    mirrored = ROOT / folder.relative_to(ROOT / "tests")

    assert mirrored.is_dir() or mirrored.with_suffix(".py").is_file()


def test_shared_fixtures_load_neither_torch_nor_ray() -> None:
    code = (
        "import sys, tests.conftest, tests.support.s3_fixtures; print(*{'torch', 'ray', 'mlflow'} & sys.modules.keys())"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert finished.stdout.split() == []


def test_xdist_groups_tests_by_file(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs --numprocesses and --dist loadgroup")

    # without the suffix, xdist ignores groups and starts one Ray and one smoke run per process
    assert request.node.nodeid.endswith("@tests/test_layout.py")
