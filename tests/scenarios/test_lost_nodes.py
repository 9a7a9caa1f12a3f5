"""Nodes of a Ray cluster that are lost while a step runs on them, or join after the run has started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def result_of(program: str, *arguments: str) -> dict[str, Any]:
    """Runs a program that starts a cluster. Returns the result that it prints."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", f"tests.support.programs.{program}", *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    result: dict[str, Any] = json.loads(line.split(" ", 1)[1])
    return result


@pytest.mark.parametrize(("lost", "attempts", "num_steps"), [("raylet", 1, 90), ("machine", 2, 91)])
def test_lost_node_loses_no_result(lost: str, attempts: int, num_steps: int, tmp_path: Path) -> None:
    """The result of an orphaned worker is used. A killed worker repeats only the optimizer step in which it waited."""
    store, counter, fault = tmp_path / "store", tmp_path / "steps", tmp_path / "fault"
    counter.touch()
    fault.touch()
    result = result_of("lost_node", str(store), str(counter), str(fault), lost)
    assert result["finished"] == ["train/first", "train/second", "train/third"], result["errors"]
    assert result["attempts"]["train/second"] == attempts
    assert len(counter.read_bytes()) == num_steps


def test_steps_wait_for_the_first_machine_with_a_cpu(tmp_path: Path) -> None:
    result = result_of("growing_cluster", str(tmp_path / "store"))
    assert result["executed"] == ["x/0", "x/1", "x/2"]
    assert result["most"] == 1, "the machine has one CPU"
    assert result["warnings"] == ["no machine of the cluster has a CPU, so the steps wait for one."]
