"""Self-training: students with adapters, one worker that weights pseudo-labels, and learning rates of parts."""

from __future__ import annotations

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

STUDENTS = "pet.self_training={training: {learning_rate: 0.01, steps: 2}}"
DDP = ("pet.strategy=ddp", "pet.workers=2")


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, [STUDENTS, *overrides])


def test_a_uniform_weight_needs_no_single_worker() -> None:
    assert read(*DDP, "pet.self_training.weights=uniform").pet_sections["pet"].num_generations == 2


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (("pet.tune=none",), "pet.self_training", "trains nothing"),
        (("pet.ipet={}",), "pet.self_training", "both define the generations"),
        (DDP, "pet.self_training.weights", "computed by one worker"),
        (("pet.self_training.tune=full",), "pet.self_training.tune", "'lora'"),
        (("pet.self_training.training=null",), "pet.self_training.training", "Length"),
        (
            ("pet.self_training.training.learning_rates={lora: 0.1}",),
            "pet.self_training.training.learning_rates.lora",
            "no lora is trained here",
        ),
        (
            ("pet.self_training.finetuning={learning_rate: 0.1, steps: 2, early_stopping: {}}",),
            "pet.self_training.finetuning.early_stopping",
            "requires a dev set",
        ),
        (("members.g1={kind: pet, backbone: {asset: x}, tune: none}",), "members.g1", "names of generation 1 of pet"),
        (
            ("data.shots=0", "baseline=null", "prompts=null", "ppt=null"),
            "pet.tune",
            "needs labeled data",
        ),
    ],
)
def test_students_that_cannot_be_trained_are_rejected(overrides: tuple[str, ...], key: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        read(*overrides)
    assert caught.value.key == key
    assert caught.value.remedy
