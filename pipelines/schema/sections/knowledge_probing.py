"""Section for knowledge probing."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipelines.schema.sections.resources import Section
from stages.common.config import Name
from stages.common.errors import InputError
from stages.common.training.config import TrainingConfig
from stages.generation.splits.config import GenerationData
from stages.knowledge_probing.config import RELATION, SUBJECT, FactPromptConfig, ProbingSettings


class FactMethodSection(FactPromptConfig):
    """How relations become prompts, optionally with its own training settings."""

    training: TrainingConfig | None = None
    """Length, learning rate and batch size per relation. If not set, the training settings of the section."""


class KnowledgeProbingSection(Section, ProbingSettings):
    """Facts that the backbone has to predict: one step per method and seed."""

    task: Name = "facts"
    """Name of the facts, which is part of step names."""
    data: GenerationData
    """Facts: fields: {subject: COLUMN, relation: COLUMN}, label: COLUMN of the answer, or of a list of right answers.
    Vectors are trained on `train`.
    """
    methods: dict[Name, FactMethodSection] = Field(min_length=1)
    """Name of a method, which is part of its row in the report -> its settings."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds of the vectors. Templates have the first one only."""
    training: TrainingConfig | None = None
    """Length, learning rate and batch size per relation, for methods with vectors."""

    @model_validator(mode="after")
    def _facts_have_subject_and_relation(self) -> Self:
        for name, source in self.data.sources.items():
            for field in (SUBJECT, RELATION):
                if field not in source.fields:
                    raise InputError(
                        f"facts have no column for the {field}.",
                        f"Set it: fields: {{{SUBJECT}: COLUMN, {RELATION}: COLUMN}}.",
                        key=f"data.{name}.fields",
                    )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        for name, method in self.methods.items():
            key = f"methods.{name}.training" if method.training else "training"
            training = method.training or self.training
            if not method.is_trained:
                if method.training is not None:
                    raise InputError("templates are not trained.", "Remove training.", key=key)
                continue
            if training is None:
                raise InputError(
                    f"{method.method} trains vectors, but there are no training settings.",
                    "Add some: training: {learning_rate: 0.01, epochs: 10}.",
                    key="training",
                )
            for setting in ("micro_batch_size", "early_stopping", "average_last"):
                if getattr(training, setting):
                    raise InputError(
                        f"the vectors of all relations are trained together, without {setting}.",
                        f"Remove {setting}.",
                        key=f"{key}.{setting}",
                    )
        return self

    @model_validator(mode="after")
    def _one_worker(self) -> Self:
        if self.strategy != "single":
            raise InputError(
                "the vectors of all relations are trained in one worker.",
                "Remove strategy and workers.",
                key="strategy",
            )
        return self
