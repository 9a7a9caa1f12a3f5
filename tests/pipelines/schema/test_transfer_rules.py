"""Prompts that start from those of another task: rules, and steps."""

from __future__ import annotations

import pytest

from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from pipelines.schema.locations import RecipeError


def read(**methods: str) -> PipelineConfig:
    listed = ", ".join(f"{name}: {settings}" for name, settings in methods.items())
    return read_recipe(find_recipe("smoke"), PipelineConfig, [f"prompts.methods={{{listed}}}", "prompts.seeds=[0, 1]"])


def spot(task: str = "plot_or_quote", method: str = "tuning") -> str:
    return f"transfer: {{task: {task}, method: {method}}}"


def test_a_prompt_of_another_task_is_upstream_of_the_same_seed() -> None:
    steps = {step.name: step for step in build_steps(read(spot=f"{{{spot()}}}", tuning="{num_virtual_tokens: 3}"))}
    for task in ("rotten_tomatoes", "plot_or_quote"):
        for seed in (0, 1):
            upstream = {step.name for step in steps[f"prompts/{task}/spot/{seed}"].upstream()}
            assert upstream == {f"data/{task}", f"prompts/plot_or_quote/tuning/{seed}"}
            assert {step.name for step in steps[f"prompts/{task}/tuning/{seed}"].upstream()} == {f"data/{task}"}


@pytest.mark.parametrize(
    ("methods", "key", "problem"),
    [
        ({"spot": f"{{{spot(task='other')}}}"}, "spot.transfer.task", "has no task 'other'"),
        ({"spot": f"{{{spot(method='other')}}}"}, "spot.transfer.method", "there is no method 'other'"),
        ({"spot": f"{{{spot(method='spot')}}}"}, "spot.transfer.method", "starts from another prompt itself"),
        ({"tuning": "{lora: {rank: 2}}", "spot": f"{{{spot()}}}"}, "spot.transfer.method", "need its adapters"),
        ({"tuning": "{method: p_tuning_v2}", "spot": f"{{{spot()}}}"}, "spot.transfer.method", "at another place"),
        ({"spot": f"{{num_virtual_tokens: 3, {spot()}}}"}, "spot.num_virtual_tokens", "defines num_virtual_tokens"),
        ({"spot": f"{{init: ppt, {spot()}}}"}, "spot.init", "transfer defines init"),
        ({"spot": f"{{method: p_tuning, {spot()}}}"}, "spot.transfer", "an lstm produces them"),
    ],
)
def test_bad_transfers_are_rejected(methods: dict[str, str], key: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        read(**{"tuning": "{num_virtual_tokens: 3}", **methods})
    assert caught.value.key == f"prompts.methods.{key}"


def test_submodels_and_batches_have_no_transfer() -> None:
    smoke = find_recipe("smoke")
    prompt = f"pet.prompt={{{spot()}}}"
    with pytest.raises(RecipeError, match="sub-models use no prompt"):
        read_recipe(smoke, PipelineConfig, ["pet.tune=prompt", "pet.training={learning_rate: 0.1, steps: 1}", prompt])
    methods = f"prompts.methods={{tuning: {{num_virtual_tokens: 3}}, spot: {{{spot()}}}}}"
    with pytest.raises(RecipeError, match="batched_training is for soft prompts without"):
        read_recipe(smoke, PipelineConfig, [methods, "prompts.batched_training=true"])


def mix(*sources: str, more: str = "num_virtual_tokens: 4") -> str:
    listed = ", ".join(item if item == "ppt" else f"{{task: plot_or_quote, method: {item}}}" for item in sources)
    return f"{{method: attempt, {more}, sources: [{listed}]}}"


def test_mixed_prompts_are_upstream_of_the_same_seed() -> None:
    methods = {"mix": mix("spot", "ppt", "tuning"), "spot": f"{{{spot()}}}", "tuning": "{num_virtual_tokens: 4}"}
    steps = {step.name: step for step in build_steps(read(**methods))}
    for task in ("rotten_tomatoes", "plot_or_quote"):
        for seed in (0, 1):
            step = steps[f"prompts/{task}/mix/{seed}"]
            sources = step.inputs["sources"]
            assert not isinstance(sources, type(step))
            tuned, started = (f"prompts/plot_or_quote/{method}/{seed}" for method in ("tuning", "spot"))
            assert [item.name for item in sources] == [started, "ppt/pair", tuned]
            assert "pretrained" not in step.inputs


@pytest.mark.parametrize(
    ("methods", "key", "problem"),
    [
        ({"mix": mix("tuning")}, "mix.sources.0", "has 3 vectors, but the mixture has 4 for the task rotten_tomatoes"),
        ({"mix": mix("ppt", more="num_virtual_tokens: 5")}, "mix.sources.0", "has 4 vectors, but the mixture has 5"),
        ({"mix": mix("ppt", "other")}, "mix.sources.1.method", "there is no method 'other'"),
        ({"mix": mix("mix")}, "mix.sources.0.method", "the vectors of 'mix' depend on the text"),
        ({"tuning": "{method: p_tuning_v2}", "mix": mix("tuning")}, "mix.sources.0.method", "are keys and values"),
        ({"tuning": "{lora: {rank: 2}}", "mix": mix("tuning")}, "mix.sources.0.method", "need its adapters"),
        (
            {"text": "{method: idpg}", "spot": f"{{{spot(method='text')}}}"},
            "spot.transfer.method",
            "depend on the text",
        ),
    ],
)
def test_bad_sources_are_rejected(methods: dict[str, str], key: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        read(**{"tuning": "{num_virtual_tokens: 3}", **methods})
    assert caught.value.key == f"prompts.methods.{key}"


def test_sources_need_a_pretrained_prompt_and_steps_of_their_own() -> None:
    smoke, methods = find_recipe("smoke"), f"prompts.methods={{mix: {mix('ppt')}}}"
    with pytest.raises(RecipeError, match="has no section ppt") as caught:
        read_recipe(smoke, PipelineConfig, [methods, "ppt=null"])
    assert caught.value.key == "prompts.methods.mix.sources.0"
    with pytest.raises(RecipeError, match="batched_training is for soft prompts without"):
        read_recipe(smoke, PipelineConfig, [methods, "prompts.batched_training=true"])
    pet = ["pet.tune=prompt", "pet.training={learning_rate: 0.1, steps: 1}", f"pet.prompt={mix('ppt')}"]
    with pytest.raises(RecipeError, match="sub-models use no prompt") as caught:
        read_recipe(smoke, PipelineConfig, pet)
    assert caught.value.key == "pet.prompt.sources"


def test_prompts_that_read_texts_are_trained_in_shared_batches() -> None:
    methods = "prompts.methods={text: {method: idpg}, tuning: {num_virtual_tokens: 3}}"
    config = read_recipe(find_recipe("smoke"), PipelineConfig, [methods, "prompts.batched_training=true"])
    (batched,) = [step for step in build_steps(config) if step.name == "prompts/batched"]
    assert {job.prompt.method for job in batched.config.jobs} == {"idpg", "prompt_tuning"}
