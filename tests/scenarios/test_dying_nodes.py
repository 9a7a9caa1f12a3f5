"""Machines of a real cluster die in the midst of steps: the results are those of a run that nothing disturbed."""

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

pytestmark = pytest.mark.timeout(1560)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of both runs, and what is told of them."""
    folder = tmp_path_factory.mktemp("storm")
    (folder / "doom").mkdir()
    write_files(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.support.programs.dying_nodes", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("outcome "))
    found: dict[str, Any] = json.loads(line.split(" ", 1)[1])
    assert found["calm"]["errors"] == found["stormy"]["errors"] == {}
    return folder, found


def files(storm: tuple[Path, dict[str, Any]], step: str) -> tuple[Path, Path]:
    """The folders of a step's files, in the calm run and in the other."""
    folder, found = storm
    calm, stormy = (folder / name / step / found[name]["files"][step] / "files" for name in ("calm", "stormy"))
    return calm, stormy


@pytest.mark.parametrize("step", ["pet/trained", "pet/labelling", "soft_labels"])
def test_a_step_whose_machine_dies_ends_elsewhere_with_the_same_bytes(
    step: str, storm: tuple[Path, dict[str, Any]]
) -> None:
    assert storm[1]["calm"]["attempts"][step] == 1 and storm[1]["stormy"]["attempts"][step] == 2
    calm, stormy = files(storm, step)
    names = sorted(path.relative_to(calm) for path in calm.rglob("*") if path.is_file())
    assert len(names) > 2
    assert names == sorted(path.relative_to(stormy) for path in stormy.rglob("*") if path.is_file())
    for name in names:
        assert (calm / name).read_bytes() == (stormy / name).read_bytes(), name


def test_workers_that_share_a_model_go_on_from_their_checkpoint_when_a_machine_dies(
    storm: tuple[Path, dict[str, Any]],
) -> None:
    assert storm[1]["stormy"]["attempts"]["spread"] >= 2
    assert set(storm[1]["workers"]["spread"]) == {"2"}
    same_curve_and_prompt(*files(storm, "spread"))


def test_workers_one_of_which_is_told_to_leave_save_first_and_fail_no_attempt(
    storm: tuple[Path, dict[str, Any]],
) -> None:
    assert storm[1]["workers"]["told"] == ["2", "2"]
    # the first worker looks before it waits for the second, and so sees the wish one step later
    assert "it was asked to end, and saved a checkpoint behind step" in storm[1]["told"]
    assert storm[1]["told"].rstrip(".")[-1] in "45"
    same_curve_and_prompt(*files(storm, "told"))


def test_elastic_workers_go_on_with_those_that_are_left(storm: tuple[Path, dict[str, Any]]) -> None:
    numbers = storm[1]["workers"]["elastic"]
    assert numbers[0] == "3" and numbers[-1] == "2"
    same_curve_and_prompt(*files(storm, "elastic"))


def same_curve_and_prompt(calm: Path, stormy: Path) -> None:
    """Losses of every step and the prompt's vectors, to rounding: sums of other workers are added in another order."""
    curves = [json.loads((folder / "losses.json").read_text()) for folder in (calm, stormy)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    vectors = [load_file(folder / "prompt" / "adapter_model.safetensors") for folder in (calm, stormy)]
    for name, values in vectors[0].items():
        assert values.numpy() == pytest.approx(vectors[1][name].numpy(), abs=2e-5), name
