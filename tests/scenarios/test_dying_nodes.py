"""Machines of a Ray cluster are lost while steps run: the results are the same as in an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.paths import ROOT
from tests.support.preemptible_steps import write_files

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1560)]
Runs = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of both runs, and their summary."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "faults").mkdir()
    write_files(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.support.programs.dying_nodes", str(folder)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("result "))
    summary: dict[str, Any] = json.loads(line.split(" ", 1)[1])
    assert summary["undisturbed"]["errors"] == summary["disturbed"]["errors"] == {}
    return folder, summary


def files(runs: Runs, step: str) -> tuple[Path, Path]:
    """Returns the folders of a step's files in the undisturbed and in the disturbed run."""
    folder, summary = runs
    undisturbed, disturbed = (folder / name / summary[name]["files"][step] for name in ("undisturbed", "disturbed"))
    return undisturbed, disturbed


@pytest.mark.parametrize("step", ["pet/trained", "pet/labeling", "soft_labels"])
def test_step_of_a_lost_machine_has_the_same_bytes(step: str, runs: Runs) -> None:
    assert runs[1]["undisturbed"]["attempts"][step] == 1 and runs[1]["disturbed"]["attempts"][step] == 2
    undisturbed, disturbed = files(runs, step)
    names = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*") if path.is_file())
    assert len(names) > 2
    assert names == sorted(path.relative_to(disturbed) for path in disturbed.rglob("*") if path.is_file())
    for name in names:
        assert (undisturbed / name).read_bytes() == (disturbed / name).read_bytes(), name


def test_workers_with_a_partitioned_model_resume_after_a_lost_machine(
    runs: Runs,
) -> None:
    assert runs[1]["disturbed"]["attempts"]["partitioned"] >= 2
    assert set(runs[1]["workers"]["partitioned"]) == {"2"}
    assert_same_training(*files(runs, "partitioned"))


def test_workers_save_a_checkpoint_when_one_is_preempted(
    runs: Runs,
) -> None:
    assert runs[1]["workers"]["preempted"] == ["2", "2"]
    # Rank 0 checks before it waits for the other rank, so it may see the request one optimizer step later.
    assert "saved a checkpoint after step" in runs[1]["preempted"]
    assert runs[1]["preempted"].rstrip(".")[-1] in "45"
    assert_same_training(*files(runs, "preempted"))


def test_elastic_step_resumes_with_fewer_workers(runs: Runs) -> None:
    numbers = runs[1]["workers"]["elastic"]
    assert numbers[0] == "3" and numbers[-1] == "2"
    assert_same_training(*files(runs, "elastic"))


def assert_same_training(undisturbed: Path, disturbed: Path) -> None:
    """Compares losses and prompts up to rounding, because other workers add sums in another order."""
    curves = [json.loads((folder / "losses.json").read_text()) for folder in (undisturbed, disturbed)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    vectors = [load_file(folder / "prompt" / "adapter_model.safetensors") for folder in (undisturbed, disturbed)]
    for name, values in vectors[0].items():
        assert values.numpy() == pytest.approx(vectors[1][name].numpy(), abs=2e-5), name
