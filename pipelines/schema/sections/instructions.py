"""Sections for instruction tuning, and for the comparison of patterns without training."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipelines.schema.sections.resources import Section, check_partitions_nothing_trained
from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.patterns.config import Task
from stages.instruction_tuning.config import InstructionSettings
from stages.pattern_summary.config import SummaryMethod
from stages.splits.config import DataConfig


class InstructionTask(Config):
    """A task with its data."""

    task: Task
    """Labels, patterns and label words. All patterns are used."""
    data: DataConfig
    """Its data."""


class InstructionSection(Section, InstructionSettings):
    """Tunes the backbone on many tasks with all their patterns, then tests it zero-shot on the task of the recipe, and
    on other tasks that it was not tuned on.
    """

    tasks: tuple[InstructionTask, ...] = Field(min_length=1)
    """The tasks to learn. None of them is the task of the recipe."""
    held_out: tuple[InstructionTask, ...] = ()
    """Tasks to predict, in addition to the task of the recipe."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds. One model is tuned per seed."""

    @model_validator(mode="after")
    def _strategy_fits_training(self) -> Self:
        if self.tune != "lora":
            check_partitions_nothing_trained(self.strategy)
        return self

    @model_validator(mode="after")
    def _patterns_are_hard(self) -> Self:
        for key in ("tasks", "held_out"):
            for number, item in enumerate(getattr(self, key)):
                name = next((name for name in item.task.patterns if item.task.pattern(name).has_soft_blocks), None)
                if name is not None:
                    raise InputError(
                        f"pattern {name!r} has a soft block, which instruction tuning does not train.",
                        "Remove the pattern.",
                        key=f"{key}.{number}.task.patterns.{name}",
                    )
                if not item.task.verbalizer:
                    raise InputError(
                        f"the task {item.task.name} has no label words.",
                        "Set a verbalizer.",
                        key=f"{key}.{number}.task.verbalizer",
                    )
        return self


class PatternSummarySection(Config):
    """Several patterns without training as one result: the mean over patterns, the best one, and their ensemble."""

    methods: tuple[SummaryMethod, ...] = Field(("mean", "best", "ensemble"), min_length=1)
    """mean (of the scores, with their deviation), best (the pattern with the highest accuracy on the labeled examples),
    ensemble (the mean of the probabilities). One row of the report each.
    """
