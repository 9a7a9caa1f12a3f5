"""Tests of the margins that bfloat16 does not resolve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.models.config import Precision
from stages.common.training.bf16_margins import fraction_below_resolution
from stages.pet import stage as pet
from stages.pet.config import PetConfig
from tests.support.small_models import backbone_config, film_task
from tests.support.stage_runs import Kept, logits_of, run


@pytest.mark.parametrize("value", [0.37, 1.0, 3.99, 16.0, 100.0, -7.3, -1.0])
def test_resolution_is_the_step_to_the_next_bfloat16_number(value: float) -> None:
    number = torch.tensor(value, dtype=torch.bfloat16)
    larger = torch.nextafter(number.abs(), torch.tensor(torch.inf, dtype=torch.bfloat16))
    step, best = float(larger - number.abs()), float(number)
    for factor, expected in ((0.9, 1.0), (1.1, 0.0)):
        other = best - factor * step if best > 0 else best + factor * step
        assert fraction_below_resolution(np.array([[best, other, -900.0]])) == expected


def test_fraction_counts_the_two_best_labels_only() -> None:
    logits = np.array([[5.0, 1.0, 1.0], [1.0, 1.0, -3.0], [0.0, 0.0, 0.0], [2.0, -2.0, 3.0]])
    assert fraction_below_resolution(logits) == 0.25 + 0.25


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_margins_of_a_backbone_in_bfloat16_are_recorded(
    precision: Precision, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    backbone = backbone_config(backbone_folders["llama"]).model_copy(update={"precision": precision})
    config = PetConfig(task=film_task("llama"), pattern="review", backbone=backbone, tune="none")
    recorder = Kept()
    run(pet, config, pet.Inputs(data=film_data), tmp_path / "out", recorder)
    expected = {fraction_below_resolution(logits_of(tmp_path / "out"))} if precision == "bf16" else {None}
    assert {recorder.metrics.get("test/margins_below_bf16")} == expected
