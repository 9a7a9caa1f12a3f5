"""A node of a Ray cluster is lost while a step runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.mark.parametrize(("lost", "attempts", "num_steps"), [("raylet", 1, 90), ("machine", 2, 91)])
def test_lost_node_loses_no_result(lost: str, attempts: int, num_steps: int, tmp_path: Path) -> None:
    """The result of an orphaned worker is used. A killed worker repeats only the optimizer step in which it waited."""
    store, counter, fault = tmp_path / "store", tmp_path / "steps", tmp_path / "fault"
    counter.touch()
    fault.touch()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.support.programs.lost_node", str(store), str(counter), str(fault), lost]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(
        next(line for line in process.stdout.splitlines() if line.startswith("result ")).split(" ", 1)[1]
    )
    assert result["finished"] == ["train/first", "train/second", "train/third"], result["errors"]
    assert result["attempts"]["train/second"] == attempts
    assert len(counter.read_bytes()) == num_steps
