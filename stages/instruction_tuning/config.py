"""Config models of instruction tuning: many tasks, each with several patterns, and one language model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig, TuneConfig
from stages.common.models.cloze.config import LossKind
from stages.common.patterns.config import Task
from stages.common.training.config import TrainingConfig


class InstructionSettings(TuneConfig):
    """Settings of instruction tuning that a recipe defines."""

    training: TrainingConfig
    """Length, learning rate and batch size. Each labeled example is read once per epoch with each pattern."""
    loss: LossKind = "vocabulary"
    """vocabulary (likelihood of the answer among all words, as in the papers), cross_entropy (over the labels), hinge,
    decoupled (a binary cross-entropy per label over all words), or auto: hinge if a label word has several tokens, else
    cross_entropy.
    """

    @model_validator(mode="after")
    def _trains_the_model(self) -> Self:
        if self.tune in ("prompt", "none"):
            raise InputError(
                f"tune: {self.tune} trains no weights of the model.", "Set tune: lora, or tune: full.", key="tune"
            )
        if self.training.early_stopping is not None:
            raise InputError(
                "instruction tuning has no dev set, since the tasks to predict are not among its tasks.",
                "Remove early_stopping.",
                key="training.early_stopping",
            )
        return self


class InstructionTuningConfig(InstructionSettings):
    """One instruction-tuned model."""

    backbone: BackboneConfig
    """The language model."""
    tasks: tuple[Task, ...] = Field(min_length=1)
    """The tasks to learn, in the order of their data."""
    seed: int = 0
    """Seed of the adapters and of the order of examples."""
