"""Steps of chain of thought."""

from __future__ import annotations

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe

SECTION = """chain_of_thought={
  question: "{text} Is it good?",
  demonstrations: [
    {fields: {text: A warm film.}, rationale: Warm is praise. The answer is fresh.},
    {fields: {text: A dull film.}, rationale: Dull is not. The answer is rotten.}],
  methods: {
    zero_shot: {}, few_shot: {num_demonstrations: 1},
    vote: {num_demonstrations: 2, num_rationales: 3, temperature: 0.7}},
  seeds: [0, 1]}"""


def plan(*overrides: str) -> dict[str, Step]:
    config = read_recipe(find_recipe("smoke"), PipelineConfig, [SECTION, *overrides])
    return {step.name: step for step in build_steps(config)}


def test_methods_without_sampling_have_one_seed() -> None:
    steps = plan()
    own = {name: step for name, step in steps.items() if step.kind == "chain_of_thought"}
    names = ("zero_shot/0", "few_shot/0", "vote/0", "vote/1")
    assert list(own) == [f"chain_of_thought/{name}" for name in names]
    assert {step.labels["row"] for step in own.values()} == {
        f"chain_of_thought/{name}" for name in ("zero_shot", "few_shot", "vote")
    }
    assert [len(step.config.demonstrations) for step in own.values()] == [0, 1, 2, 2]
    assert own["chain_of_thought/vote/0"].config.seed != own["chain_of_thought/vote/1"].config.seed
    for step in own.values():
        assert {item.name for item in step.upstream()} == {"data/rotten_tomatoes"}
    measured = {step.name for step in steps["report"].config.measured}
    assert own.keys() <= measured


def test_a_demonstration_changes_only_the_methods_that_read_it() -> None:
    before, after = plan(), plan("chain_of_thought.demonstrations.1.fields.text=A dull story.")
    changed = {name for name in before if before[name].config != after[name].config}
    assert changed == {"chain_of_thought/vote/0", "chain_of_thought/vote/1"}


def test_resources_are_those_of_the_section() -> None:
    steps = plan("resources.cpus=2", "chain_of_thought.gpus=1")
    resources = steps["chain_of_thought/vote/0"].resources
    assert (resources.cpus, resources.gpus) == (2, 1)
