"""A slow node of a Ray cluster holds nothing back: its step also runs elsewhere, and the first commit wins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.raced_steps import FOREVER_S, NUM_STEPS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
Scenario = dict[str, Any]


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """What happened in each scenario of `tests.support.programs.slow_node`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.support.programs.slow_node", str(tmp_path_factory.mktemp("runs"))]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    summary: dict[str, Scenario] = json.loads(line.split(" ", 1)[1])
    return summary


@pytest.mark.parametrize(("name", "winner"), [("slow", 2), ("overtaken", 1), ("failing", 1), ("alone", 2)])
def test_two_attempts_give_one_result(name: str, winner: int, scenarios: dict[str, Scenario]) -> None:
    found = scenarios[name]
    step = f"sub/{found['is_slow']}"
    assert found["squares"] == {f"sub/{value}": value**2 for value in range(NUM_STEPS)}
    assert found["attempts"] == {f"sub/{value}": 1 + (step == f"sub/{value}") for value in range(NUM_STEPS)}
    assert found["committed"] == {f"sub/{value}": winner if step == f"sub/{value}" else 1 for value in range(NUM_STEPS)}
    ((again, attempt, ratio),) = found["again"]
    assert (again, attempt) == (step, 2) and ratio > 2
    first, second = found["runs"][found["is_slow"]]
    assert first[0] != second[0], "both ran on the same node"
    assert second[1:] == [""], "the second attempt has read or written checkpoints of the first one"
    assert found["failed"] == found["failures"] == []
    assert found["wall_s"] < FOREVER_S / 4


@pytest.mark.parametrize("name", ["slow", "overtaken", "failing", "alone"])
def test_nothing_of_the_loser_is_left(name: str, scenarios: dict[str, Scenario]) -> None:
    found = scenarios[name]
    for step, files in found["files"].items():
        folder = found["folders"][step]
        expected = [".lease.lock", f"{folder}/result.json", f"{folder}/square.txt", "manifest.json"]
        assert files == sorted(expected), step
    assert found["is_interrupted"] == (name in ("slow", "overtaken"))
    assert found["notes"] == [] and found["reservations"] == []
    assert found["free_cpus"] == 2


def test_failure_of_one_attempt_is_a_warning(scenarios: dict[str, Scenario]) -> None:
    assert scenarios["slow"]["warnings"] == scenarios["overtaken"]["warnings"] == []
    for name, attempt in (("failing", 2), ("alone", 1)):
        found = scenarios[name]
        assert found["warnings"] == [
            f"attempt {attempt} of sub/{found['is_slow']} failed (RuntimeError: it broke); its attempt on another node "
            "continues."
        ]
