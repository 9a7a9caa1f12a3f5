"""One real run of the smoke recipe for the session; tests that change a store work on a copy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
