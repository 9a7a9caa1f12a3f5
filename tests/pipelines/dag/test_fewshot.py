"""The DAG of a recipe: which steps there are, what they read, and what a change of the recipe touches."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.steps.step import Step, graph
from pipelines.dag.fewshot import build_steps
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe, shipped_recipes

SHIPPED = list(shipped_recipes())


def plan(recipe: str, *overrides: str) -> dict[str, Step]:
    """Steps of a shipped recipe by name."""
    config = read_recipe(find_recipe(recipe), PipelineConfig, overrides)
    return {step.name: step for step in build_steps(config)}


def changed(recipe: str, *overrides: str) -> set[str]:
    """Names of the steps whose own function, config or assets differ after `overrides`."""
    before, after = plan(recipe), plan(recipe, *overrides)
    assert before.keys() == after.keys()
    return {name for name in before if own(before[name]) != own(after[name])}


def own(step: Step) -> Any:
    return step.run, step.config, dict(step.assets)


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_the_steps_of_a_recipe(recipe: str) -> None:
    config = read_recipe(find_recipe(recipe), PipelineConfig)
    assert len(config.task.patterns) >= 3
    assert config.prompts is not None
    assert config.baseline is not None
    assert set(plan(recipe)) == {
        "data/rotten_tomatoes",
        "data/plot_or_quote",
        "ppt/pair",
        *(f"zero_shot/{pattern}" for pattern in config.task.patterns),
        *(f"pet/{pattern}/{seed}" for pattern in config.task.patterns for seed in config.pet.seeds),
        "soft_labels",
        *(f"distill/{seed}" for seed in config.distill.seeds),
        *(f"baseline/{seed}" for seed in config.baseline.seeds),
        *(
            f"prompts/{task}/{method}/{seed}"
            for task in ("rotten_tomatoes", "plot_or_quote")
            for method in ("ppt", "random")
            for seed in config.prompts.seeds
        ),
        "report",
    }


@pytest.mark.parametrize("recipe", SHIPPED)
def test_every_shipped_recipe_is_a_graph_that_ends_in_its_report(recipe: str) -> None:
    found = plan(recipe)
    ordered = graph([found["report"]])
    assert ordered.keys() == found.keys(), "the report reads every other step, or what reads it"
    names = list(found)
    for name, step in found.items():
        assert all(names.index(item) < names.index(name) for item in upstream(step)), "upstream before downstream"
    measured = [item.name for item in found["report"].config.measured]
    assert measured == [item.name for item in found["report"].upstream()]


@pytest.mark.parametrize("recipe", SHIPPED)
def test_the_report_has_a_row_for_everything_that_is_measured(recipe: str) -> None:
    steps = plan(recipe)
    with_row = {name for name, step in steps.items() if KINDS[step.kind].row}
    assert with_row <= {item.name for item in steps["report"].config.measured}


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_each_step_reads_what_it_needs_and_no_more(recipe: str) -> None:
    found = plan(recipe)
    for name, step in found.items():
        kind, *rest = name.split("/")
        main = "data/rotten_tomatoes"
        expected = {
            "data": set(),
            "ppt": set(),
            "zero_shot": {main},
            "pet": {main},
            "baseline": {main},
            "soft_labels": {main, *(item for item in found if item.startswith("pet/"))},
            "distill": {main, "soft_labels"},
            "prompts": {f"data/{rest[0]}", *(["ppt/pair"] if "ppt" in rest else [])} if kind == "prompts" else set(),
            "report": set(found) - {"report"},
        }
        assert upstream(step) == expected[kind]


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_every_seed_of_every_step_is_its_own(recipe: str) -> None:
    drawing = [step.config for name, step in plan(recipe).items() if not name.startswith("zero_shot/")]
    seeds = [config.seed for config in drawing if hasattr(config, "seed")]
    assert len(set(seeds)) == len(seeds) > 10


@pytest.mark.parametrize("recipe", ["demo", "smoke"])
@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("distill.training.learning_rate=1e-3", {"distill"}),
        ("distill.temperature=4", {"distill"}),
        ("baseline.training.batch_size=2", {"baseline"}),
        ("pet.training.learning_rate=0.5", {"pet"}),
        ("pet.lora.rank=5", {"pet"}),
        ("ensemble.weights=accuracy", {"soft_labels"}),
        ("ppt.training.learning_rate=0.5", {"ppt"}),
        ("prompts.training.learning_rate=0.5", {"prompts"}),
        ("student.max_length=17", {"distill", "baseline"}),
        ("backbone.max_length=17", {"ppt", "zero_shot", "pet", "prompts"}),
    ],
)
def test_a_change_touches_the_configs_of_its_own_steps_only(recipe: str, override: str, kinds: set[str]) -> None:
    touched = changed(recipe, override)
    assert touched == {name for name in plan(recipe) if name.split("/")[0] in kinds}


@pytest.mark.parametrize(
    "override", ['task.patterns.review="{text} In short:{mask}"', "task.verbalizer.fresh.review=[fine]"]
)
@pytest.mark.parametrize("recipe", ["demo", "smoke"])
def test_a_change_of_one_pattern_leaves_the_other_submodels_alone(recipe: str, override: str) -> None:
    seeds = read_recipe(find_recipe(recipe), PipelineConfig).pet.seeds
    touched = changed(recipe, override) - {"soft_labels"}
    prompts = {name for name in touched if name.startswith("prompts/rotten_tomatoes/")}
    assert touched - prompts == {"zero_shot/review", *(f"pet/review/{seed}" for seed in seeds)}


def test_a_change_of_a_downstream_task_leaves_the_main_task_alone() -> None:
    touched = changed("demo", 'prompts.tasks.1.task.patterns.kind="{text} A{mask}"')
    assert touched == {name for name in plan("demo") if name.startswith("prompts/plot_or_quote/")}


def test_another_seed_changes_everything_that_draws() -> None:
    touched = changed("smoke", "seed=99")
    silent = {"zero_shot", "soft_labels"}
    assert touched == {name for name in plan("smoke") if name.split("/")[0] not in silent}


def test_processors_change_resources_and_no_config() -> None:
    assert changed("smoke", "pet.cpus=3", "distill.gpus=1") == set()
    found = plan("smoke", "pet.cpus=3", "distill.gpus=1")
    assert {found[name].resources.cpus for name in found if name.startswith(("pet/", "zero_shot/"))} == {3}
    assert {found[name].resources.gpus for name in found if name.startswith("distill/")} == {1}
    assert found["soft_labels"].resources.cpus == 0.5


def test_sections_may_be_left_out() -> None:
    found = plan("smoke", "ppt=null", "prompts=null", "baseline=null", "zero_shot=false")
    assert {name.split("/")[0] for name in found} == {"data", "pet", "soft_labels", "distill", "report"}
    assert "data/plot_or_quote" not in found


def test_zero_shot_submodels_have_no_loop() -> None:
    found = plan("smoke", "pet.tune=none")
    submodels = [step.config for name, step in found.items() if name.startswith("pet/")]
    assert submodels
    assert all(config.loop is None and config.tune == "none" for config in submodels)
