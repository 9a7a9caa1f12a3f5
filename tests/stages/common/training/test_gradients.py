"""The gradient of every loss is the same however a batch is split, in float64: no loss is a mean of means.

It is split into micro-batches, and among two processes with each strategy that sums gradients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.engine import InProcessEngine
from stages.probe.config import ContrastiveConfig
from tests.support.gradient_problems import PROBLEMS, cloze, float64
from tests.support.gradients import gradient
from tests.support.paths import ROOT
from tests.support.programs.gradient_ranks import CASES, RESUMED, Case

SPLITS = (1, 2, 3, 5)
"""Sizes of micro-batches of a batch of 7."""
TOLERANCE = 1e-6


@pytest.fixture
def _float64() -> Iterator[None]:
    with float64():
        yield


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_does_not_depend_on_micro_batches(name: str, backbone_folders: dict[str, Path]) -> None:
    family, build = PROBLEMS[name]
    problem = build(backbone_folders[family], InProcessEngine())
    assert len(problem.items) == 7
    expected = gradient(problem, None)
    assert expected.values.dtype == torch.float64 and expected.values.abs().max() > 1e-3
    for size in SPLITS:
        actual = gradient(problem, size)
        assert (actual.values - expected.values).abs().max() < TOLERANCE, size
        assert actual.loss == pytest.approx(expected.loss, abs=TOLERANCE)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_gradient_does_not_depend_on_passes_by_length(family: str, backbone_folders: dict[str, Path]) -> None:
    """Texts of an architecture that padding would change are read in one pass per length."""
    problem = cloze(backbone_folders[family], InProcessEngine())
    expected = gradient(problem, None).values
    backbone = problem.compute_loss.__self__.backbone  # type: ignore[attr-defined]
    assert backbone.traits.padding != "none"
    backbone.traits = replace(backbone.traits, padding="none")
    assert (gradient(problem, None).values - expected).abs().max() < TOLERANCE


@pytest.fixture(scope="module")
def reports(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two workers report: see `gradient_ranks`."""
    folder = tmp_path_factory.mktemp("group")
    program = ROOT / "tests/support/programs/gradient_ranks.py"
    words = [str(folder / "file"), json.dumps({name: str(path) for name, path in backbone_folders.items()})]
    outputs, errors = ([folder / f"{rank}.{kind}" for rank in range(2)] for kind in ("out", "err"))
    workers = []
    for rank in range(2):
        with outputs[rank].open("w") as output, errors[rank].open("w") as error:
            command = [sys.executable, str(program), str(rank), *words]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            workers.append(subprocess.Popen(command, env=environment, stdout=output, stderr=error))
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0, 0], "".join(path.read_text()[-3000:] for path in errors)
    return [json.loads(line) for path in outputs for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def differences(reports: list[dict[str, Any]]) -> dict[Case, list[dict[str, Any]]]:
    """Case -> the differences that each worker reports."""
    by_case: dict[Case, list[dict[str, Any]]] = {}
    for report in reports:
        if "case" in report:
            by_case.setdefault(Case(*report["case"]), []).append(report)
    return by_case


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_gradient_does_not_depend_on_workers(case: Case, differences: dict[Case, list[dict[str, Any]]]) -> None:
    assert len(differences[case]) == 2
    for report in differences[case]:
        assert report["gradient"] < TOLERANCE
        assert report["norm"] < TOLERANCE
        assert report["loss"] < TOLERANCE


def test_fsdp_shards_weights_that_are_trained(differences: dict[Case, list[dict[str, Any]]]) -> None:
    for name in ("PET", "PET, causal", "PET, seq2seq", "baseline", "distillation"):
        assert all(report["sharded"] for report in differences[Case(name, "fsdp", None)]), name
        assert not any(report["sharded"] for report in differences[Case(name, "ddp", None)]), name


@pytest.mark.parametrize("name", RESUMED)
def test_training_resumes_with_another_strategy(name: str, reports: list[dict[str, Any]]) -> None:
    weights = [report["weights"] for report in reports if report.get("resumed") == name]
    assert len(weights) == 2
    assert max(weights) < TOLERANCE


def test_batches_of_pairs_are_not_split() -> None:
    training = {"learning_rate": 1e-3, "steps": 1, "micro_batch_size": 2}
    with pytest.raises(ValueError, match="compares all texts of a batch"):
        ContrastiveConfig.model_validate({"training": training})
