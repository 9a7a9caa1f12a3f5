"""Steps of soft prompts: on their own, in batched training, as sub-models, and for token-level tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError
from tests.support.generation_tasks import generation_overrides
from tests.support.regression_data import regression_overrides
from tests.support.token_level_tasks import token_level_overrides

METHODS = "prompts.methods={v2: {method: p_tuning_v2, num_virtual_tokens: 3}, ppt: {init: ppt}}"
BATCHED = "prompts.batched_training=true"
SUBMODELS = ("pet.tune=prompt", "pet.prompt={num_virtual_tokens: 4}", "pet.batched_training=true")
SOFT = "task.patterns.soft='{text} {soft:2} is {mask}.'"
SOFT_WORDS = "task.verbalizer={rotten: [bad], fresh: [good]}"


def plan(*overrides: str) -> dict[str, Step]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


def error_of(*overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        plan(*overrides)
    return caught.value


def test_batched_prompts_are_trained_in_one_step_and_tested_in_their_own() -> None:
    alone, batched = plan(METHODS), plan(METHODS, BATCHED)
    names = [name for name, step in alone.items() if step.kind == "prompts"]
    assert len(names) == 4
    assert set(batched) - set(alone) == {"prompts/batched"}
    shared = batched["prompts/batched"]
    assert [job.name for job in shared.config.jobs] == names
    assert upstream(shared) == {"data/rotten_tomatoes", "data/plot_or_quote", "ppt/pair"}
    for name in names:
        assert upstream(batched[name]) == {f"data/{alone[name].labels['task']}", "prompts/batched"}
        assert batched[name].config == alone[name].config, "the same seed and settings, so the same prompt"
    inits = {job.name: job.pretrained for job in shared.config.jobs}
    assert {name for name, index in inits.items() if index == 0} == {name for name in names if "/ppt/" in name}
    order = list(batched)
    assert order.index("prompts/batched") < min(order.index(name) for name in names)
    assert "prompts/batched" not in upstream(batched["report"])


def test_batched_submodels_are_the_first_generation() -> None:
    steps = plan(*SUBMODELS, "pet.seeds=[0, 1]", "pet.ipet={generations: 1, scale_factor: 2}")
    jobs = steps["pet/batched"].config.jobs
    assert [job.name for job in jobs] == [
        f"pet/{name}/{seed}" for name in ("review", "verdict", "question") for seed in (0, 1)
    ]
    for job in jobs:
        assert upstream(steps[job.name]) == {"data/rotten_tomatoes", "pet/batched"}
        assert (steps[job.name].config.seed, steps[job.name].config.prompt) == (job.seed, job.prompt)
        assert "pet/batched" not in upstream(steps[job.name.replace("pet/", "pet/g1/")])
    assert "pet/batched" not in upstream(steps["soft_labels"])


def test_patterns_with_soft_blocks_need_steps_that_train_them() -> None:
    soft = (SOFT, SOFT_WORDS)
    steps = plan(*soft, "prompts.tasks=[{pattern: soft}]")
    assert not any("/soft/" in name for name in steps if name.startswith(("pet/", "zero_shot/")))
    steps = plan(*soft, "pet.patterns=[review, soft]", *SUBMODELS)
    assert {"pet/soft/0", "pet/review/0"} <= set(steps)
    assert "zero_shot/soft" not in steps
    assert error_of(*soft).key == "task.patterns.soft"
    assert error_of(*soft, "pet.patterns=[soft, review]").key == "pet.patterns"
    deep = "pet.prompt={method: p_tuning_v2}"
    assert error_of(*soft, "pet.patterns=[soft, review]", "pet.tune=prompt", deep).key == "pet.patterns"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of the smoke recipe for a token-level task of each kind."""
    return token_level_overrides(tmp_path_factory.mktemp("token-level"))


def test_every_token_level_task_method_and_seed_is_a_step(words: tuple[str, ...]) -> None:
    steps = plan(*words, "prompts.seeds=[0, 1]")
    names = [
        f"prompts/{task}/{method}/{seed}"
        for task in ("works", "answers")
        for method in ("v2", "ppt")
        for seed in (0, 1)
    ]
    assert set(names) <= set(steps)
    assert {step.name for step in steps["prompts/works/ppt/0"].upstream()} == {"data/works", "ppt/pair"}
    assert {step.name for step in steps["prompts/answers/v2/1"].upstream()} == {"data/answers"}
    assert len({steps[name].config.seed for name in names}) == len(names)
    batched = plan(*words, "prompts.batched_training=true")
    assert {step.name for step in batched["prompts/works/v2/0"].upstream()} == {"data/works"}, "trained on its own"
    alone = plan(*words, "prompts.tasks=[]")
    assert not any(name.startswith("prompts/rotten_tomatoes") for name in alone)


def test_every_generation_task_method_and_seed_is_a_step(tmp_path: Path) -> None:
    overrides = generation_overrides(tmp_path)
    steps = plan(*overrides, "prompts.seeds=[0, 1]")
    runs = [f"tables/{method}/{seed}" for method in ("v2", "ppt") for seed in (0, 1)]
    assert {f"{prefix}/{name}" for prefix in ("prompts", "tuned_prompts") for name in runs} <= set(steps)
    assert upstream(steps["tuned_prompts/tables/ppt/0"]) == {"data/tables", "ppt/pair"}
    assert upstream(steps["tuned_prompts/tables/v2/1"]) == {"data/tables"}
    assert upstream(steps["prompts/tables/v2/1"]) == {"data/tables", "tuned_prompts/tables/v2/1"}
    assert len({steps[f"tuned_prompts/{name}"].config.seed for name in runs}) == len(runs)
    assert {f"prompts/{name}" for name in runs} <= upstream(steps["report"])


def test_every_regression_task_method_and_seed_is_a_step(tmp_path: Path) -> None:
    steps = plan(*regression_overrides(tmp_path), "prompts.seeds=[0, 1]")
    runs = [f"prompts/stars/{method}/{seed}" for method in ("v2", "ppt") for seed in (0, 1)]
    assert set(runs) <= set(steps)
    assert upstream(steps["prompts/stars/ppt/0"]) == {"data/stars", "ppt/pair"}
    assert upstream(steps["prompts/stars/v2/1"]) == {"data/stars"}
    assert len({steps[name].config.seed for name in runs}) == len(runs)
    assert set(runs) <= upstream(steps["report"])


def test_decoding_and_units_train_no_prompt_again(tmp_path: Path) -> None:
    steps = plan(*generation_overrides(tmp_path))
    for change in ({"decoding": "{strategy: beam}"}, {"units": "characters"}):
        other = plan(*generation_overrides(tmp_path, **change))
        for name in ("data/tables", "tuned_prompts/tables/v2/0"):
            assert other[name].config == steps[name].config
        assert other["prompts/tables/v2/0"].config != steps["prompts/tables/v2/0"].config
    cut = plan(*generation_overrides(tmp_path, max_new_tokens="9"))
    name = "tuned_prompts/tables/v2/0"
    assert cut[name].config != steps[name].config, "targets are cut in training"


def test_task_that_is_rewritten_as_a_choice_starts_from_unified() -> None:
    formats = ("ppt.formats=[pair, unified]", "ppt.unified_options=[2, 4]")
    steps = plan(*formats, "prompts.tasks=[{pattern: review}]")
    rewritten = plan(*formats, "prompts.tasks=[{pattern: review, as_choice: true}]")
    name = "prompts/rotten_tomatoes/ppt/0"
    assert "ppt/unified" in upstream(rewritten[name])
    task, plain = rewritten[name].config.task, steps[name].config.task
    assert task.words("review") == {"rotten": ("A",), "fresh": ("B",)}
    assert "The correct one is" in task.patterns["review"]
    assert task.labels == plain.labels and task.fields == plain.fields
    assert rewritten["pet/review/0"].config.task == steps["pet/review/0"].config.task, "only the prompts are rewritten"


def test_loss_over_the_vocabulary_is_that_of_all_prompts() -> None:
    steps = plan("prompts.loss=vocabulary", "ppt.loss=vocabulary")
    kinds = {step.config.loss for step in steps.values() if step.kind in ("prompts", "ppt")}
    assert kinds == {"vocabulary"}
    (job, *_) = plan(METHODS, BATCHED, "prompts.loss=vocabulary")["prompts/batched"].config.jobs
    assert job.loss == "vocabulary"
