"""What `resources` of a recipe hands down to its sections."""

from __future__ import annotations

import pytest

from cluster.steps.step import Resources
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError

SPREAD = "resources={strategy: zero3, workers: 4, cpus: 2, gpus: 1}"


def resources(*overrides: str) -> dict[str, Resources]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    return {step.name: step.resources for step in build_steps(config)}


def test_steps_with_a_backbone_get_them_and_others_do_not() -> None:
    found = resources(SPREAD)
    shared = Resources(cpus=2, gpus=1, workers=4, strategy="zero3")
    with_backbone = [name for name in found if name.split("/")[0] in ("ppt", "pet", "zero_shot", "prompts")]
    assert len(with_backbone) == 11
    assert all(found[name] == shared for name in with_backbone)
    before = resources()
    assert all(found[name] == before[name] for name in found if name not in with_backbone)


def test_a_section_says_more() -> None:
    found = resources(SPREAD, "pet.workers=2", "ppt.strategy=single", "prompts.gpus=0")
    assert found["pet/review/0"] == Resources(cpus=2, gpus=1, workers=2, strategy="zero3")
    assert found["ppt/pair"] == Resources(cpus=2, gpus=1), "a strategy of its own has workers of its own"
    assert found["prompts/plot_or_quote/ppt/0"] == Resources(cpus=2, workers=4, strategy="zero3")


def test_a_folder_for_weights_goes_where_the_strategy_goes() -> None:
    found = resources("resources={strategy: zero3_offload, workers: 2, nvme_path: /fast}", "ppt.strategy=single")
    assert found["pet/review/0"] == Resources(workers=2, strategy="zero3_offload", nvme_path="/fast")
    assert found["ppt/pair"].nvme_path is None, "a strategy of its own has a place of its own"
    assert found["distill/0"].nvme_path is None
    own = resources(SPREAD, "pet.strategy=zero3_offload", "pet.workers=2", "pet.nvme_path=/fast")
    assert (own["pet/review/0"].nvme_path, own["ppt/pair"].nvme_path) == ("/fast", None)


def test_members_on_other_backbones_get_them_too() -> None:
    probe = "probe: {kind: probe, encoder: {asset: x}}"
    member = "other: {kind: pet, backbone: {asset: x}, tune: none}"
    found = resources(SPREAD, f"members={{{probe}, {member}}}")
    assert found["pet/other/review/0"].workers == 4
    assert found["probe/probe"].workers == 1


def test_shards_get_all_but_the_strategy() -> None:
    found = resources(SPREAD, "shards={source: {asset: x}, cpus: 3}")
    assert found["shards"] == Resources(cpus=3, gpus=1, workers=4, strategy="stream")
    elastic = resources("resources={strategy: zero3, workers: [1, 3]}", "shards={source: {asset: x}}")
    assert elastic["ppt/pair"].workers == (1, 3)
    assert elastic["shards"].workers == 3, "the most: a stream has as many as it is given"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("resources={workers: 4}", "ppt"),
        ("resources={strategy: zero9}", "resources.strategy"),
        ("resources=3", "resources"),
        ("resources={strategy: zero3, nvme_path: /fast}", "resources"),
        ("resources={nvme_path: /fast}", "resources"),
        ("resources={strategy: zero3_offload, nvme_path: fast}", "resources.offload_to"),
        ("prompts.nvme_path=/fast", "prompts"),
    ],
)
def test_what_makes_no_sense_is_refused(override: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, [override])
    assert caught.value.key.startswith(key)


def test_workers_may_be_the_fewest_and_the_most() -> None:
    found = resources("resources={strategy: ddp, workers: [1, 3]}", "prompts.workers=2")
    elastic, fixed = found["pet/review/0"], found["prompts/plot_or_quote/ppt/0"]
    assert (elastic.min_workers, elastic.max_workers) == (1, 3)
    assert (fixed.min_workers, fixed.max_workers) == (2, 2)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("resources={strategy: ddp, workers: [3, 1]}", "Write the fewest workers first"),
        ("resources={strategy: single, workers: [1, 3]}", "strategy: single has one worker"),
        ("resources={strategy: ddp, workers: [0, 3]}", "fewest, most"),
    ],
)
def test_numbers_of_workers_that_make_no_sense_are_refused(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        resources(override)
