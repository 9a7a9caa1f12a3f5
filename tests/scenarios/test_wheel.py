"""Tests the built wheel in a new environment outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DATA_FILES = (
    "pipelines/recipes/demo.yaml",
    "pipelines/recipes/smoke.yaml",
    "pipelines/labeling/label.html",
    "pipelines/report/page/report.html",
    "pipelines/py.typed",
    "stages/py.typed",
    "cluster/py.typed",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_contains_its_data_files_and_only_the_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert set(DATA_FILES) <= set(names)
    packages = {"pipelines", "stages", "cluster"}
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {*packages, "clozeline.py"}


def test_wheel_runs_smoke_in_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # the installed packages of this environment, except the checkout, to which only its own .pth file points
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}

    def run(*command: str | Path) -> str:
        finished = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    assert run(python, "-c", "import pipelines; print(pipelines.__file__)").startswith(str(packages))
    run(folder / "bin" / "clozeline", "run", "smoke", "--store", "store")
    (manifest,) = (tmp_path / "store" / "report").glob("*/manifest.json")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert json.loads(manifest.read_text())["provenance"]["commit"] == head.stdout.strip()
    assert (tmp_path / "store" / "reports" / "smoke" / "report.html").exists()
