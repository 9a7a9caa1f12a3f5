"""Tests of the settings that a search tries."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.search.space import Candidate, own_candidates, proposals

ONE_TASK = "prompts.tasks=[{pattern: review}]"


def smoke(*overrides: str) -> PipelineConfig:
    return read_recipe(find_recipe("smoke"), PipelineConfig, (ONE_TASK, *overrides))


def names(candidates: list[Candidate]) -> list[str]:
    return [item.name for item in candidates]


def test_own_settings_train_as_long_as_in_the_recipe() -> None:
    ppt, random = own_candidates(smoke(), num_labeled=16)
    assert (ppt.name, ppt.pattern, ppt.prompt.init, ppt.training.steps) == ("recipe.ppt", "review", "ppt", 4)
    assert (random.training.epochs, random.training.learning_rate, random.is_own) == (None, 0.01, True)
    training = "prompts.methods.random.training={learning_rate: 0.1, steps: 9}"
    assert [item.training.steps for item in own_candidates(smoke(training), num_labeled=16)] == [4, 9]


def test_proposals_vary_method_length_rate_pattern_and_init() -> None:
    found = proposals(smoke("prompts.training.early_stopping={patience: 2}", "data.dev_shots=4"), num_steps=40)
    assert len(set(names(found))) == len(found)
    assert len({(item.pattern, str(item.prompt), str(item.training)) for item in found}) == len(found)
    assert {item.prompt.method for item in found} == {
        "prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2", "lora", "idpg", "attempt",
    }  # fmt: skip
    assert {item.pattern for item in found} == {"review", "verdict", "question"}
    assert {item.training.steps for item in found} == {40}
    assert all(item.training.early_stopping for item in found), "other training settings are those of the recipe"
    adapters = [item for item in found if item.prompt.method == "lora"]
    assert max(item.training.learning_rate for item in adapters) == 0.003
    assert {item.prompt.lora.rank for item in adapters if item.prompt.lora} == {4, 8, 16}


def test_proposals_need_what_the_recipe_has() -> None:
    found = proposals(smoke("ppt=null", "prompts.methods={plain: {}}"), num_steps=40)
    assert not [item for item in found if item.prompt.uses_ppt]


def test_order_follows_from_the_seed_and_alternates_methods() -> None:
    first, again, other = (proposals(smoke(f"seed={seed}"), num_steps=40) for seed in (1, 1, 2))
    assert names(first) == names(again) != names(other)
    assert sorted(names(first)) == sorted(names(other))
    assert len({item.prompt.method for item in first[:7]}) == 7
    longer = proposals(smoke("seed=1"), num_steps=80)
    assert names(longer) == names(first)


def test_patterns_of_the_task_are_the_only_ones() -> None:
    searched = smoke("pattern_search={edit: {}, patterns: [verdict]}")
    assert {item.pattern for item in proposals(searched, 40)} == {"review", "question"}, "its text is not known yet"
    choice = smoke("prompts.tasks=[{pattern: review, as_choice: true}]", "prompts.methods={plain: {}}", "ppt=null")
    assert {item.pattern for item in proposals(choice, 40)} == {"review"}


def test_soft_blocks_define_the_number_of_vectors() -> None:
    soft = smoke(
        "task.patterns={soft: '{text} {soft:2} is {mask}.', review: '{text} {mask}'}",
        "task.verbalizer={rotten: [bad], fresh: [good]}", "prompts.tasks=[{pattern: soft}]",
        "prompts.methods={plain: {}}", "ppt=null",
    )  # fmt: skip
    found = [item for item in proposals(soft, 40) if item.pattern == "soft" and item.prompt.method == "prompt_tuning"]
    assert {name.partition("-0")[0] for name in names(found)} == {
        "prompt_tuning-sample_vocab", "prompt_tuning-label_words",
    }  # fmt: skip
    assert len(found) == 8
