"""Demonstrations of sub-models: enough labeled examples per label, also outside of each fold."""

from __future__ import annotations

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from tests.support.recipe_files import CHOICE

DEMONSTRATIONS = "pet.demonstrations={max_length: 16}"


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, [DEMONSTRATIONS, *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.shots=2",),
        ("data.shots=3", "pet.num_folds=3"),
        ("data.shots=4", "pet.num_folds=2"),
        ("data.shots=4", "learning_curve={shots: [2, 4]}"),
    ],
)
def test_two_labeled_examples_per_label_are_enough(overrides: tuple[str, ...]) -> None:
    config = read(*overrides)
    assert config.pet is not None and config.pet.demonstrations is not None


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("data.shots=1",), "1 labeled examples per label are too few"),
        (("data.shots=2", "pet.num_folds=2"), "1 of them outside of a fold"),
        (("data.shots=3", "pet.num_folds=2"), "1 of them outside of a fold"),
        (("data.shots=4", "learning_curve={shots: [1, 4]}"), "1 labeled examples per label are too few"),
        (CHOICE, "do not support multiple choice"),
        (("data.shots=0", "baseline=null", "prompts=null", "ppt=null", "pet.ipet={}"), "are labeled examples"),
    ],
)
def test_demonstrations_without_enough_labeled_examples_are_rejected(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        read(*overrides)
    assert caught.value.key == "pet.demonstrations"
    assert caught.value.remedy


def test_batched_training_has_no_demonstrations() -> None:
    with pytest.raises(RecipeError, match="without demonstrations") as caught:
        read("pet.tune=prompt", "pet.batched_training=true")
    assert caught.value.key == "pet.demonstrations"


def test_encoder_of_demonstrations_is_an_asset_of_the_recipe() -> None:
    config = read("pet.demonstrations.most_similar=0.5", "pet.demonstrations.encoder={asset: hf:some/encoder}")
    assert config.encoders["pet.demonstrations.encoder"].asset == "hf:some/encoder"
    assert config.assets["pet.demonstrations.encoder.asset"] == "hf:some/encoder"
