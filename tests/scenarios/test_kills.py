"""A driver that is killed again and again, or told to end: in the end the bytes of a run that nothing disturbed."""

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

from cluster.steps.plan import PlanState, plan
from cluster.store.location import open_store
from pipelines.dag import fewshot
from pipelines.run.request import load_request
from tests.support.paths import ROOT

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
KILLS = 20


class Victim:
    """A run that will be killed."""

    def __init__(self, store: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOZELINE_CHECKPOINT_EVERY_S": "0"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "run", "smoke"]
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "--store", str(store)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def first_step(self) -> float | None:
        """Waits until a step is started. Returns how long that took; None if none was."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("started"):
                return time.monotonic() - self.begun
        return None

    def kill_after(self, seconds: float) -> bool:
        """Kills it, unless it ends before. Returns whether it was killed."""
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
    """Path -> bytes of all committed files of the store; what lies in MLflow beside them bears names of its own."""
    found = (path for path in store.glob("**/files/**/*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in found if "mlartifacts" not in path.parts}


def committed(store: Path) -> dict[str, int]:
    """Path -> time of writing of every manifest."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.glob("**/manifest.json")}


def test_driver_that_gets_sigterm_leaves_with_its_code_and_tells_how_to_go_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    victim = Victim(store)
    assert victim.first_step() is not None
    victim.process.send_signal(signal.SIGTERM)
    with victim.process.stdout or pytest.fail("it has no output") as told:
        words = told.read()
    assert victim.process.wait() == 143, words
    assert f"resume  clozeline run smoke --store {shlex.quote(str(store))}" in words
    assert not list(store.glob("*/**/lease.json"))


@pytest.mark.timeout(900)
def test_driver_killed_at_twenty_moments_ends_with_the_bytes_of_an_unbroken_run(
    smoke_run: tuple[Path, str], tmp_path: Path, clozeline: Clozeline
) -> None:
    unbroken, store = smoke_run[0], tmp_path / "store"
    length = json.loads((unbroken / "reports" / "smoke" / "report.json").read_text())["wall_s"]
    chance = random.Random(3)
    start_s, kills, is_finished = 5.0, 0, False
    seen: dict[str, int] = {}
    while kills < KILLS:
        victim = Victim(store)
        if kills % 4 == 0 or is_finished:
            # While it imports, plans, opens MLflow and starts Ray.
            kills += victim.kill_after(chance.uniform(0.1, start_s))
        else:
            # The steps' own time, a part of the whole length for each kill.
            first = victim.first_step()
            is_finished, start_s = first is None, first or start_s
            kills += victim.kill_after(chance.uniform(0, 2 * length / KILLS))
        now = committed(store)
        assert {name: now.get(name) for name in seen} == seen, "committed work was done again"
        seen = now
    done = clozeline("run", "smoke", "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    last = committed(store)
    assert {name: last[name] for name in seen} == seen
    assert files_of(store) == files_of(unbroken)
    lines = plan(fewshot.build_steps(load_request("smoke", [], store).config), open_store(store))
    assert all(line.state is PlanState.CACHED for line in lines)
    assert open_store(store).lease("report", lines[-1].fingerprint) is None
