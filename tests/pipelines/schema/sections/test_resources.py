"""`resources` of a recipe as the default of its sections."""

from __future__ import annotations

import pytest

from cluster.steps.step import Resources
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

ZERO3 = "resources={strategy: zero3, workers: 4, cpus: 2, gpus: 1}"


def resources(*overrides: str) -> dict[str, Resources]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step.resources for step in build_steps(config)}


def test_resources_are_defaults_of_steps_with_a_backbone() -> None:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, [ZERO3])
    steps = {step.name: step for step in build_steps(config)}
    shared = Resources(cpus=2, gpus=1, workers=4, strategy="zero3")
    with_backbone = [name for name, step in steps.items() if step.kind in ("ppt", "pet", "zero_shot", "prompts")]
    assert len(with_backbone) == 11
    assert all(steps[name].resources == shared for name in with_backbone)
    before = resources()
    assert all(steps[name].resources == before[name] for name in steps if name not in with_backbone)


def test_a_section_overrides_the_defaults() -> None:
    steps_resources = resources(ZERO3, "pet.workers=2", "ppt.strategy=single", "prompts.gpus=0")
    assert steps_resources["pet/review/0"] == Resources(cpus=2, gpus=1, workers=2, strategy="zero3")
    assert steps_resources["ppt/pair"] == Resources(cpus=2, gpus=1), (
        "a section with its own strategy has its own workers"
    )
    assert steps_resources["prompts/plot_or_quote/ppt/0"] == Resources(cpus=2, workers=4, strategy="zero3")


def test_the_folder_for_offloaded_weights_is_a_default_with_the_strategy() -> None:
    steps_resources = resources(
        "resources={strategy: zero3_offload, workers: 2, nvme_path: /fast}", "ppt.strategy=single"
    )
    assert steps_resources["pet/review/0"] == Resources(workers=2, strategy="zero3_offload", nvme_path="/fast")
    assert steps_resources["ppt/pair"].nvme_path is None, "a section with its own strategy has its own folder"
    assert steps_resources["distill/small/0"].nvme_path is None
    own = resources(ZERO3, "pet.strategy=zero3_offload", "pet.workers=2", "pet.nvme_path=/fast")
    assert (own["pet/review/0"].nvme_path, own["ppt/pair"].nvme_path) == ("/fast", None)


def test_resources_are_defaults_of_members_on_other_backbones() -> None:
    probe = "probe: {kind: probe, encoder: {asset: x}}"
    member = "other: {kind: pet, backbone: {asset: x}, tune: none}"
    steps_resources = resources(ZERO3, f"members={{{probe}, {member}}}")
    assert steps_resources["pet/other/review/0"].workers == 4
    assert steps_resources["probe/probe"].workers == 1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2"])
def test_full_training_has_strategies_that_update_shards(strategy: str) -> None:
    keys = (f"{section}.{key}" for section in ("distill", "pet") for key in (f"strategy={strategy}", "workers=2"))
    steps_resources = resources(*keys, "pet.tune=full")
    for name in ("pet/review/0", "distill/small/0"):
        assert (steps_resources[name].strategy, steps_resources[name].workers) == (strategy, 2), name


def test_sections_with_shards_have_all_defaults_but_the_strategy() -> None:
    steps_resources = resources(ZERO3, "unlabeled_shards={source: {asset: x}, cpus: 3}")
    assert steps_resources["soft_label_shards"] == Resources(cpus=3, gpus=1, workers=4, strategy="stream")
    elastic = resources("resources={strategy: zero3, workers: [1, 3]}", "unlabeled_shards={source: {asset: x}}")
    assert elastic["ppt/pair"].workers == (1, 3)
    assert elastic["soft_label_shards"].workers == 3, "the maximum, because a stream has a fixed number of workers"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("resources={workers: 4}", "ppt"),
        ("resources={strategy: zero9}", "resources.strategy"),
        ("resources=3", "resources"),
        ("resources={strategy: zero3, nvme_path: /fast}", "resources"),
        ("resources={nvme_path: /fast}", "resources"),
        ("resources={strategy: zero3_offload, nvme_path: fast}", "resources.nvme_path"),
        ("prompts.nvme_path=/fast", "prompts"),
    ],
)
def test_invalid_resources_are_errors(override: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, [override])
    assert caught.value.key.startswith(key)


def test_workers_can_be_a_minimum_and_a_maximum() -> None:
    steps_resources = resources("resources={strategy: ddp, workers: [1, 3]}", "prompts.workers=2")
    elastic, fixed = steps_resources["pet/review/0"], steps_resources["prompts/plot_or_quote/ppt/0"]
    assert (elastic.min_workers, elastic.max_workers) == (1, 3)
    assert (fixed.min_workers, fixed.max_workers) == (2, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources={strategy: ddp, workers: [3, 1]}", "Put the minimum first"),
        ("resources={strategy: single, workers: [1, 3]}", "strategy: single uses one worker"),
        ("resources={strategy: ddp, workers: [0, 3]}", "minimum, maximum"),
    ],
)
def test_invalid_numbers_of_workers_are_errors(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        resources(override)
