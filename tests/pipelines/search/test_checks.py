"""Tests of what a recipe needs for a search, and of the settings that suit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.search.checks import candidate_values, check_candidate, check_enough_labels, check_searchable
from pipelines.search.space import own_candidates, proposals
from stages.common.errors import InputError
from stages.common.examples import Example

ONE_TASK = "prompts.tasks=[{pattern: review}]"


def recipe(path: Path, *overrides: str) -> PipelineConfig:
    return read_recipe(path, PipelineConfig, overrides)


def error_of(config: PipelineConfig) -> InputError:
    with pytest.raises(InputError) as caught:
        check_searchable(config)
    return caught.value


def test_recipe_with_one_classification_task_can_be_searched(searched_recipe: Path) -> None:
    check_searchable(recipe(searched_recipe))
    check_searchable(recipe(find_recipe("smoke"), ONE_TASK))


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (("prompts=null",), "prompts", "has none"),
        ((), "prompts.tasks", "has 2: rotten_tomatoes, plot_or_quote"),
        (
            ("prompts.methods={plain: {}, spot: {transfer: {task: plot_or_quote, method: plain}}}",),
            "prompts.tasks",
            "has 2",
        ),
    ],
)
def test_recipe_that_cannot_be_searched(overrides: tuple[str, ...], key: str, problem: str) -> None:
    error = error_of(recipe(find_recipe("smoke"), *overrides))
    assert error.key == key
    assert problem in error.problem


def test_methods_that_need_other_trained_prompts(searched_recipe: Path) -> None:
    transfer = "prompts.methods={tuning: {}, spot: {transfer: {task: films, method: tuning}}}"
    assert error_of(recipe(searched_recipe, transfer)).key == "prompts.methods.spot.transfer"
    sources = "prompts.methods={tuning: {}, mix: {method: attempt, sources: [{task: films, method: tuning}]}}"
    assert error_of(recipe(searched_recipe, sources)).key == "prompts.methods.mix.sources"


def test_other_kinds_of_tasks_share_the_methods(searched_recipe: Path) -> None:
    source = "{asset: a.txt, fields: {words: w}, label: l}"
    data = f"{{train: {source}, test: {source}, train_size: 4}}"
    words = f"prompts.token_classification={{words: {{labels: [O, X], data: {data}}}}}"
    methods = "prompts.methods={tuning: {}}"
    assert error_of(recipe(searched_recipe, words, methods)).key == "prompts.token_classification"


@pytest.mark.parametrize(
    ("labels", "groups", "problem"),
    [
        (["rotten", "fresh", "fresh"], "abc", "'rotten' has 1"),
        (["fresh", "fresh"], "ab", "'rotten' has 0"),
        (["rotten", "rotten", "fresh", "fresh"], "aaaa", "one group"),
    ],
)
def test_too_few_labels(searched_recipe: Path, labels: list[str], groups: str, problem: str) -> None:
    examples = [
        Example(str(number), {"text": f"text {number}"}, label, group=group)
        for number, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    with pytest.raises(InputError, match=problem):
        check_enough_labels(recipe(searched_recipe), examples, 4)


def test_every_candidate_that_passes_is_a_recipe(searched_recipe: Path) -> None:
    config = recipe(searched_recipe, "prompts.batched_training=true")
    for candidate in proposals(config, 30)[:14]:
        check_candidate(config, candidate)
        values = candidate_values(config, candidate)
        loaded = PipelineConfig.model_validate(values)
        assert loaded.prompts is not None
        [(name, method)] = loaded.prompts.methods.items()
        assert (name, method.training) == (candidate.prompt.method, candidate.training)
        assert loaded.prompts.batched_training == candidate.prompt.can_be_batched
    assert config == recipe(searched_recipe, "prompts.batched_training=true")


def test_own_setting_is_written_as_it_was(searched_recipe: Path) -> None:
    config = recipe(searched_recipe, "prompts.training={learning_rate: 0.01, epochs: 3}")
    [own] = own_candidates(config, 12)
    values = candidate_values(config, own)
    assert PipelineConfig.model_validate(values) == config


def test_candidates_that_the_backbone_does_not_support(searched_recipe: Path) -> None:
    config = recipe(searched_recipe, "backbone.max_length=150")  # of 160 positions
    reasons = set()
    for candidate in proposals(config, 30):
        if candidate.prompt.prompt_length <= 8:
            check_candidate(config, candidate)
        else:
            with pytest.raises(InputError) as caught:
                check_candidate(config, candidate)
            reasons.add(caught.value.key)
    assert reasons == {"backbone.max_length"}
