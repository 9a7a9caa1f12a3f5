"""Rules about instruction tuning, summaries over patterns, and facts. Each raises `InputError` with the dotted key."""

from __future__ import annotations

from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import downstream_tasks
from stages.common.errors import InputError


def check_instructions(config: PipelineConfig) -> None:
    """Instruction tuning, summaries and facts fit the rest of the recipe."""
    check_instruction_tuning(config)
    check_facts(config)
    check_pattern_summary(config)


def check_instruction_tuning(config: PipelineConfig) -> None:
    """Tasks of instruction tuning have names of their own, and labeled examples to learn from."""
    section = config.instruction_tuning
    if section is None:
        return
    names = {config.task.name, *(item.task.name for item in downstream_tasks(config.prompts))}
    names |= {item.task.name for item in (config.prompts.tasks if config.prompts else ()) if item.task is not None}
    for key, item in config.instruction_tasks.items():
        if item.task.name in names:
            raise InputError(
                f"two tasks have the name {item.task.name}; the model predicts tasks that it was not tuned on.",
                "Rename one of them, or remove it.",
                key=f"{key}.task.name",
            )
        names.add(item.task.name)
    for number, item in enumerate(section.tasks):
        if item.data.train is None and item.data.shots == 0:
            raise InputError(
                f"the task {item.task.name} has no labeled examples to learn from.",
                "Set data.train or data.shots, or move it to held_out.",
                key=f"instruction_tuning.tasks.{number}.data",
            )


def check_facts(config: PipelineConfig) -> None:
    """The facts of knowledge probing have a name of their own."""
    section = config.knowledge_probing
    if section is not None and section.task in {
        *config.datasets,
        *(item.task.name for item in downstream_tasks(config.prompts)),
    }:
        raise InputError(f"two tasks have the name {section.task}.", "Rename the facts.", key="knowledge_probing.task")


def check_pattern_summary(config: PipelineConfig) -> None:
    """A summary has several untrained patterns, and the best one is selected on labeled examples."""
    section = config.pattern_summary
    if section is None:
        return
    counts = [len(config.hard_patterns)] if config.zero_shot and config.backbone else []
    if config.instruction_tuning:
        counts += [len(config.hard_patterns)] + [len(item.task.patterns) for item in config.instruction_tuning.held_out]
    if max(counts, default=0) < 2:
        raise InputError(
            "a summary needs two patterns that are tested without training.",
            "Add a pattern and set zero_shot: true, or remove pattern_summary.",
            key="pattern_summary",
        )
    if "best" in section.methods and not config.has_labels:
        raise InputError(
            "the best pattern is selected on labeled examples, of which there are none.",
            "Set data.shots, or remove best.",
            key="pattern_summary.methods",
        )
