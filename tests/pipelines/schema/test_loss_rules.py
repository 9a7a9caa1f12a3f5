"""Losses of sub-models in multiple choice, where labels are options."""

from __future__ import annotations

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from tests.support.recipe_files import CHOICE


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("pet.loss=vocabulary", "pet.loss", "loss: vocabulary predicts the words of a label"),
        ("pet.loss=decoupled", "pet.loss", "loss: decoupled predicts the words of a label"),
        ("pet.label_conditioning={}", "pet.label_conditioning", "puts the word of a label into the text"),
    ],
)
def test_losses_with_words_of_labels_are_rejected_for_options(override: str, key: str, problem: str) -> None:
    read_recipe(find_recipe("smoke"), PipelineConfig, [override])
    with pytest.raises(RecipeError, match=problem) as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, [*CHOICE, override])
    assert caught.value.key == key
