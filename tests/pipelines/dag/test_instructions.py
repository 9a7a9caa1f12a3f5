"""Steps of instruction tuning and of summaries over patterns, and what a recipe with them cannot have."""

from __future__ import annotations

import pytest

from cluster.steps.step import Step
from pipelines.dag.fewshot import build_steps
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import find_recipe, read_recipe
from stages.common.errors import InputError

TRAINING = "{learning_rate: 0.001, steps: 2}"
SUMMARY = "pattern_summary={}"


def task(name: str, *, patterns: str = "{ask: '{text}? {mask}', say: '{text}: {mask}'}", data: str = "") -> str:
    words = "verbalizer: {no: [no], yes: [yes]}"
    source = "{asset: x.csv, fields: {text: text}, label: label}"
    return (
        f"{{task: {{name: {name}, labels: ['no', 'yes'], patterns: {patterns}, {words}}}, "
        f"data: {data or f'{{train: {source}, test: {source}}}'}}}".replace(
            "no: [no], yes: [yes]", "'no': ['no'], 'yes': ['yes']"
        )
    )


def tuning(*, tasks: str = task("one"), held_out: str = "", more: str = "") -> str:
    return f"instruction_tuning={{tasks: [{tasks}], held_out: [{held_out}], training: {TRAINING}{more}}}"


def plan(*overrides: str) -> dict[str, Step]:
    return {step.name: step for step in build_steps(read_recipe(find_recipe("smoke"), PipelineConfig, overrides))}


def upstream(step: Step) -> set[str]:
    return {item.name for item in step.upstream()}


def test_tuned_models_predict_tasks_that_they_were_not_tuned_on() -> None:
    steps = plan(tuning(tasks=f"{task('one')}, {task('two')}", held_out=task("three"), more=", seeds: [0, 1]"))
    assert upstream(steps["instruction_tuning/1"]) == {"data/one", "data/two"}
    assert steps["instruction_tuning/0"].config.seed != steps["instruction_tuning/1"].config.seed
    instructed = {name for name in steps if name.startswith("instructed/")}
    of_recipe = {f"instructed/rotten_tomatoes/{name}" for name in ("review", "verdict", "question")}
    rows = of_recipe | {"instructed/three/ask", "instructed/three/say"}
    assert instructed == {f"{row}/{seed}" for row in rows for seed in (0, 1)}
    step = steps["instructed/three/say/1"]
    assert upstream(step) == {"data/three", "instruction_tuning/1"}
    assert (step.labels["row"], step.labels["task"]) == ("instructed/three/say", "three")
    assert set(step.config.task.patterns) == {"say"}
    assert instructed <= upstream(steps["report"])


def test_summaries_read_all_untrained_patterns_of_a_task() -> None:
    steps = plan(SUMMARY, "pattern_summary.methods=[mean, best]", tuning(held_out=task("three")))
    names = {name for name in steps if name.startswith("pattern_summary/")}
    groups = ("zero_shot", "instructed/rotten_tomatoes", "instructed/three")
    assert names == {f"pattern_summary/{group}/{method}" for group in groups for method in ("mean", "best")}
    step = steps["pattern_summary/zero_shot/best"]
    assert step.config.patterns == tuple(item.labels["pattern"] for item in step.inputs["patterns"])
    assert upstream(step) == {"data/rotten_tomatoes"} | {f"zero_shot/{name}" for name in step.config.patterns}
    assert steps["pattern_summary/instructed/three/mean"].labels["task"] == "three"


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        ((tuning(tasks=task("rotten_tomatoes")),), "instruction_tuning.tasks.0.task.name", "two tasks have the name"),
        ((tuning(held_out=task("one")),), "instruction_tuning.held_out.0.task.name", "two tasks have the name"),
        ((tuning(tasks=""),), "instruction_tuning.tasks", "at least 1"),
        (
            (tuning(tasks=task("one", patterns="{a: '{text} {soft:2} {mask}'}")),),
            "instruction_tuning.tasks.0.task.patterns.a",
            "has a soft block",
        ),
        ((tuning(more=", tune: none"),), "instruction_tuning.tune", "trains no weights"),
        ((tuning(more=", strategy: zero3, workers: 2, tune: full"),), "instruction_tuning.strategy", "partitions"),
        ((SUMMARY, "zero_shot=false"), "pattern_summary", "needs two patterns"),
    ],
)
def test_what_does_not_fit_is_an_error(overrides: tuple[str, ...], key: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(find_recipe("smoke"), PipelineConfig, overrides)
    assert caught.value.key == key
    assert problem in str(caught.value)
