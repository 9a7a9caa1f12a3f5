"""Learning rates of parts: each part must be trained in the section."""

from __future__ import annotations

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

METHODS = (
    "prompts.methods={both: {num_virtual_tokens: 3, lora: {rank: 2}, head: linear}, plain: {num_virtual_tokens: 3}}"
)


def read(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, [METHODS, *overrides])


def rates(section: str, group: str) -> str:
    return f"{section}.training={{learning_rate: 0.001, steps: 2, learning_rates: {{{group}: 0.1}}}}"


@pytest.mark.parametrize(
    ("section", "groups"),
    [
        ("prompts", ("prompt", "lora", "head")),
        ("prompts.methods.both", ("prompt", "lora", "head")),
        ("prompts.methods.plain", ("prompt",)),
        ("ppt", ("prompt",)),
        ("pet", ("lora",)),
        ("distill", ("head", "backbone")),
        ("baseline", ("head", "backbone")),
    ],
)
def test_only_parts_that_are_trained_have_a_learning_rate(section: str, groups: tuple[str, ...]) -> None:
    for group in ("prompt", "lora", "head", "backbone"):
        if group in groups:
            read(rates(section, group))
            continue
        with pytest.raises(RecipeError, match=f"no {group} is trained here") as caught:
            read(rates(section, group))
        assert caught.value.key == f"{section}.training.learning_rates.{group}"


@pytest.mark.parametrize(("setting", "problem"), [("{rest: 0.1}", "prompt"), ("{lora: 0}", "greater than 0")])
def test_unknown_parts_and_rates_of_zero_are_rejected(setting: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        read(f"prompts.training={{learning_rate: 0.001, steps: 2, learning_rates: {setting}}}")


def test_prompts_of_one_batch_have_one_learning_rate() -> None:
    with pytest.raises(RecipeError, match="does not support learning_rates"):
        read(
            "prompts.methods={plain: {num_virtual_tokens: 3}}",
            "prompts.batched_training=true",
            rates("prompts", "prompt"),
        )
