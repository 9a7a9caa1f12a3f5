"""Fixtures of all tests: one local Ray, one run of the smoke recipe, and empty stores.

Ray and the smoke run start when a test first needs them. Tests that change the store of the run work on a copy.
This module and its imports load neither torch nor Ray, so that a light test starts quickly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.run.capacity import Capacity
from cluster.run.ray_session import session
from cluster.store.base import Store
from cluster.store.location import open_store
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

pytest_plugins = ["tests.support.s3_fixtures"]

# Workers of Ray have a niceness of 15, so another test process on the same cores would leave them almost no time.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests, and groups them for `--dist loadgroup`: xdist runs all tests of a group in one process.

    Tests that use `ray_session` get the marker `ray`; all of them are one group, so there is one Ray per test run. The
    tests that read the smoke run are another group. Any other test is in the group of its file, whose fixtures it uses.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "ray_session" in fixtures:
            item.add_marker("ray")
        if item.get_closest_marker("ray"):
            group = "ray"
        elif "smoke_run" in fixtures:
            group = "smoke"
        else:
            group = item.path.relative_to(ROOT).as_posix()
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Capacity]:
    """A local Ray with 2 CPUs. Its workers import the steps of the tests from the checkout."""
    with session(num_cpus=2) as capacity:
        yield capacity


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store")


@pytest.fixture(scope="session")
def clozeline() -> Clozeline:
    """Runs the command in a separate process, as a user does."""

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
    """The store of a finished smoke run, and the output of the run."""
    store = tmp_path_factory.mktemp("smoke") / "store"
    finished = clozeline("run", "smoke", "--store", str(store), timeout=560)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return store, finished.stdout
