"""A driver that is killed many times: the final results have the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.steps.plan import PlanState
from cluster.store.location import open_store
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
NUM_KILLS = 20

pytestmark = pytest.mark.slow


class KilledRun:
    """A run of the smoke recipe that the test kills."""

    def __init__(self, store: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOZELINE_CHECKPOINT_EVERY_S": "0"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "run", "smoke"]
        self.started_at_s = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--store", str(store)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def first_step(self) -> float | None:
        """Waits until a step starts. Returns how many seconds that took; None if no step starts."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("started"):
                return time.monotonic() - self.started_at_s
        return None

    def kill_after(self, seconds: float) -> bool:
        """Kills the run after some time. Returns False if it ended before."""
        try:
            self.process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return True
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


def files_of(store: Path) -> dict[str, bytes]:
    """Returns path -> content of all committed files, without the random names of attempts."""
    files = {}
    for path in store.glob("**/files/*/**/*"):
        result, _, name = path.relative_to(store).as_posix().partition("/files/")
        if path.is_file() and "mlartifacts" not in path.parts:  # whose names are random
            files[f"{result}/{name.partition('/')[2]}"] = path.read_bytes()
    return files


def committed(store: Path) -> dict[str, int]:
    """Returns path -> modification time of every manifest."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("**/manifest.json")}


def test_driver_prints_how_to_resume_after_sigterm(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = KilledRun(store)
    assert run.first_step() is not None
    run.process.send_signal(signal.SIGTERM)
    with run.process.stdout or pytest.fail("the run has no output") as stdout:
        output = stdout.read()
    assert run.process.wait() == 143, output
    assert f"resume    clozeline run smoke --store {shlex.quote(str(store))}" in output
    assert not list(store.glob("*/**/lease.json"))


@pytest.mark.timeout(900)
def test_run_killed_twenty_times_has_the_bytes_of_an_undisturbed_run(
    smoke_run: tuple[Path, str], tmp_path: Path, clozeline: Clozeline
) -> None:
    undisturbed, store = smoke_run[0], tmp_path / "store"
    length = json.loads((undisturbed / "reports" / "smoke" / "report.json").read_text())["wall_s"]
    generator = random.Random(3)
    start_s, num_kills, is_finished = 5.0, 0, False
    manifests: dict[str, int] = {}
    while num_kills < NUM_KILLS:
        run = KilledRun(store)
        if num_kills % 4 == 0 or is_finished:
            # Kill it while it imports, plans, opens MLflow and starts Ray.
            num_kills += run.kill_after(generator.uniform(0.1, start_s))
        else:
            # Kill it while steps run.
            first = run.first_step()
            is_finished, start_s = first is None, first or start_s
            num_kills += run.kill_after(generator.uniform(0, 2 * length / NUM_KILLS))
        now = committed(store)
        assert {name: now.get(name) for name in manifests} == manifests, "a committed step ran again"
        manifests = now
    last_run = clozeline("run", "smoke", "--store", str(store))
    assert last_run.returncode == 0, last_run.stdout + last_run.stderr
    last = committed(store)
    assert {name: last[name] for name in manifests} == manifests
    assert files_of(store) == files_of(undisturbed)
    planned = plan_recipe(load_request("smoke", [], store).config, open_store(store))
    assert all(step.state is PlanState.CACHED for step in planned)
    assert open_store(store).lease("report", planned[-1].fingerprint) is None
