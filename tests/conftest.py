"""What all tests share: one real local Ray and one real run of the smoke recipe, each started when a test first asks
for it, and stores in temporary folders. Tests that change the store of the run work on a copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.run.ray_session import Capacity, session
from cluster.store.base import Store
from cluster.store.location import open_store
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

pytest_plugins = ["tests.support.s3_fixtures"]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Capacity]:
    """A local Ray with 2 CPUs, whose workers import the tests' steps from the checkout."""
    with session(num_cpus=2) as capacity:
        yield capacity


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store")


@pytest.fixture(scope="session")
def clozeline() -> Clozeline:
    """Runs the command as a person would, in a process of its own."""

    def call(
        *words: str, stdin: str = "", cwd: Path | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", *words]
        return subprocess.run(
            command, input=stdin, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return call


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, clozeline: Clozeline) -> tuple[Path, str]:
    """The store of a finished smoke run, and what the run printed."""
    store = tmp_path_factory.mktemp("smoke") / "store"
    done = clozeline("run", "smoke", "--store", str(store), timeout=560)
    assert done.returncode == 0, done.stdout + done.stderr
    return store, done.stdout
