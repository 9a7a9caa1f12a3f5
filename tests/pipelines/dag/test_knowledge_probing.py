"""Steps of knowledge probing, and what its section cannot have."""

from __future__ import annotations

import pytest

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.errors import InputError

SOURCE = "{asset: facts.jsonl, fields: {subject: sub_label, relation: predicate_id}, label: obj_label}"
DATA = f"{{train: {SOURCE}, test: {SOURCE}}}"
TRAINING = "{learning_rate: 0.01, epochs: 2}"
TEMPLATES = "{born: '[X] was born in [Y].'}"


def section(*, methods: str = "{lama: {}}", data: str = DATA, templates: str = TEMPLATES, more: str = "") -> str:
    return f"knowledge_probing={{templates: {templates}, data: {data}, methods: {methods}{more}}}"


def plan(*overrides: str) -> dict[str, Step]:
    return {step.name: step for step in build_steps(read_recipe(find_recipe("smoke"), PipelineConfig, overrides))}


def test_each_method_is_a_step_per_seed_and_templates_have_one() -> None:
    methods = "{lama: {}, opti: {method: optiprompt, training: {learning_rate: 0.5, steps: 3}}, p: {method: p_tuning}}"
    steps = plan(section(methods=methods, more=f", training: {TRAINING}, seeds: [0, 1]"))
    names = {name for name in steps if name.startswith("knowledge_probing/")}
    seeds = {"lama": (0,), "opti": (0, 1), "p": (0, 1)}
    assert names == {f"knowledge_probing/facts/{method}/{seed}" for method in seeds for seed in seeds[method]}
    opti = steps["knowledge_probing/facts/opti/1"]
    assert {item.name for item in opti.upstream()} == {"data/facts"}
    assert (opti.config.training.learning_rate, opti.config.prompt.method) == (0.5, "optiprompt")
    assert steps["knowledge_probing/facts/lama/0"].config.training is None
    assert opti.config.seed != steps["knowledge_probing/facts/opti/0"].config.seed
    assert (opti.labels["row"], opti.labels["task"]) == ("knowledge_probing/facts/opti", "facts")
    assert names <= {item.name for item in steps["report"].upstream()}


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        (section(methods="{opti: {method: optiprompt}}"), "training", "no training settings"),
        (section(methods=f"{{lama: {{training: {TRAINING}}}}}"), "methods.lama.training", "are not trained"),
        (
            section(
                methods="{p: {method: p_tuning}}", more=", training: {learning_rate: 1, steps: 1, average_last: 0.5}"
            ),
            "training.average_last",
            "without average_last",
        ),
        (section(data=DATA.replace("relation: predicate_id", "other: x")), "data.train.fields", "for the relation"),
        (section(templates="{born: '[X] was born.'}"), "templates.born", "0 times [Y]"),
        (section(more=", relations: x.jsonl"), "relations", "either from a file or from the recipe"),
        (section(more=", strategy: ddp, workers: 2"), "strategy", "in one worker"),
        (section(more=", task: rotten_tomatoes"), "task", "two tasks have the name"),
    ],
)
def test_what_does_not_fit_is_an_error(override: str, key: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, (override,))
    assert caught.value.key == f"knowledge_probing.{key}"
    assert problem in str(caught.value)
