"""One real run of the smoke recipe for the session; tests that change a store work on a copy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config import PipelineConfig
from pipelines.recipe import read_recipe

ROOT = Path(__file__).parents[2]
Clozeline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def clozeline() -> Clozeline:
    """Runs the command as a person would, in a process of its own."""

    def call(
        *words: str, stdin: str = "", cwd: Path | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", "from pipelines.cli import main; main()", *words]
        return subprocess.run(
            command, input=stdin, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return call


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, clozeline: Clozeline) -> tuple[Path, str]:
    """The store of a finished smoke run, and what the run printed."""
    store = tmp_path_factory.mktemp("smoke") / "store"
    done = clozeline("run", "smoke", "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    return store, done.stdout


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small masked model."""
    from init_files import save_small_backbone  # torch and transformers, which most of these tests need not load

    folder = tmp_path_factory.mktemp("backbone")
    save_small_backbone(folder)
    return str(folder)


@pytest.fixture
def start(backbone: str) -> Callable[..., PipelineConfig]:
    """Runs init with the small model, and reads what it wrote."""
    from init_files import init

    def call(data: str, *words: str, out: str = "made.yaml") -> PipelineConfig:
        done = init(data, "--out", out, "--backbone", backbone, "--student", backbone, "--no-score", *words)
        assert done.exit_code == 0, done.exception
        return read_recipe(Path(out), PipelineConfig)

    return call
