"""Steps of instruction tuning, and of summaries over the untrained patterns of a task.

instruction_tuning/<seed>                   a model that is tuned on many tasks
instructed/<task>/<pattern>/<seed>          this model on a task that it was not tuned on, zero-shot
pattern_summary/zero_shot/<method>          mean, best or ensemble of the patterns of the recipe's task
pattern_summary/instructed/<task>/<method>  the same for the instruction-tuned model of the first seed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.steps.step import Step
from pipelines.dag.searches import Searches
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.instructions import InstructionSection
from stages.common.patterns.config import Task
from stages.instruction_tuning.config import InstructionTuningConfig
from stages.instruction_tuning.held_out.config import HeldOutConfig
from stages.pattern_summary.config import PatternSummaryConfig


def instruction_steps(config: PipelineConfig, data: Mapping[str, Step], searches: Searches) -> list[Step]:
    """Returns the tuned models, and their patterns on tasks that they were not tuned on.

    Args:
        config: The recipe.
        data: Task name -> its split step.
        searches: Searches for label words and patterns of the recipe's task.
    """
    section = config.instruction_tuning
    if section is None:
        return []
    steps: list[Step] = []
    for seed in section.seeds:
        tuned = make_step(
            config,
            f"instruction_tuning/{seed}",
            kind="instruction_tuning",
            run="stages.instruction_tuning.stage:run",
            config=InstructionTuningConfig.of(
                section, backbone=config.language_model, tasks=tuple(item.task for item in section.tasks)
            ),
            inputs={"data": [data[item.task.name] for item in section.tasks]},
            resources=section.resources,
        )
        steps.append(tuned)
        for task in held_out_tasks(config, section):
            names = config.hard_patterns if task is config.task else tuple(task.patterns)
            steps += [
                _instructed(config, section, task, name, seed, tuned, data[task.name], searches) for name in names
            ]
    return steps


def held_out_tasks(config: PipelineConfig, section: InstructionSection) -> list[Task]:
    """Returns the tasks that the tuned model predicts: first the task of the recipe."""
    return [config.task, *(item.task for item in section.held_out)]


def _instructed(
    config: PipelineConfig,
    section: InstructionSection,
    task: Task,
    pattern: str,
    seed: int,
    tuned: Step,
    data: Step,
    searches: Searches,
) -> Step:
    """Returns the step of one pattern of a task. Searches are for the task of the recipe."""
    row = f"instructed/{task.name}/{pattern}"
    return make_step(
        config,
        f"{row}/{seed}",
        kind="instructed",
        run="stages.instruction_tuning.held_out.stage:run",
        config=HeldOutConfig(task=task.only(pattern), pattern=pattern, backbone=config.language_model),
        inputs={"data": data, "tuned": tuned, **(searches.inputs(pattern) if task is config.task else {})},
        resources=section.resources,
        row=row,
        task=task.name,
        pattern=pattern,
        seed=str(seed),
    )


def summary_steps(config: PipelineConfig, data: Mapping[str, Step], steps: Sequence[Step]) -> list[Step]:
    """Returns the summaries of untrained patterns: of a task with one pattern, there is nothing to summarize.

    Args:
        config: The recipe.
        data: Task name -> its split step.
        steps: All steps, among them those of the patterns.
    """
    if config.pattern_summary is None:
        return []
    zero_shot = [step for step in steps if step.kind == "zero_shot"]
    summaries = _summaries(config, "zero_shot", config.task, data, zero_shot)
    section = config.instruction_tuning
    for task in held_out_tasks(config, section) if section else []:
        instructed = [
            step
            for step in steps
            if step.kind == "instructed"
            and step.labels["task"] == task.name
            and section is not None
            and step.labels["seed"] == str(section.seeds[0])
        ]
        summaries += _summaries(config, f"instructed/{task.name}", task, data, instructed)
    return summaries


def _summaries(
    config: PipelineConfig, name: str, task: Task, data: Mapping[str, Step], patterns: Sequence[Step]
) -> list[Step]:
    assert config.pattern_summary is not None
    if len(patterns) < 2:
        return []
    return [
        make_step(
            config,
            f"pattern_summary/{name}/{method}",
            kind="pattern_summary",
            run="stages.pattern_summary.stage:run",
            config=PatternSummaryConfig(
                labels=task.labels,
                problem_type=task.problem_type,
                method=method,
                patterns=tuple(step.labels["pattern"] for step in patterns),
            ),
            inputs={"data": data[task.name], "patterns": patterns},
            row=f"patterns/{name}/{method}",
            task=task.name,
            method=method,
        )
        for method in config.pattern_summary.methods
    ]
