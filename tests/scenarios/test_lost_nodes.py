"""Nodes of a Ray cluster that are lost while a step runs on them, or join after the run has started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


ISOLATED = ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc")
"""Runs a command with its own processes and its own loopback network."""


def result_of(program: str, *arguments: str, isolated: bool = False) -> dict[str, Any]:
    """Runs a program that starts a cluster. Returns the result that it prints."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", f"tests.support.programs.{program}", *arguments]
    if isolated:
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = [*ISOLATED, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380, check=False)
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


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    subprocess.run([*ISOLATED, "ip", "link"], capture_output=True, check=False).returncode != 0,
    reason="this user may not create namespaces, and stopping the cluster would end every Ray of the machine",
)
def test_autoscaler_adds_machines_for_queued_steps_and_removes_them(tmp_path: Path) -> None:
    result = result_of("autoscaling_cluster", str(tmp_path / "store"), tempfile.mkdtemp(dir="/tmp"), isolated=True)
    assert result["executed"] == ["gpu", "x/0", "x/1", "x/2", "x/3"]
    assert result["errors"] == {"two": "it requests 2 GPUs, but the largest machine has 1."}
    before, most, after = result["machines"]
    assert (before, after) == (0, 0) and 2 <= most <= 3
    assert result["queued"]["gpu"] == "1 GPU" and result["queued"]["x/0"] == "1 CPU"
