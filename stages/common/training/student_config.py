"""Config models of all stages that train the student's encoder.

They are not in config.py, so that a new setting of the student does not change the code digest of other training runs.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from stages.common.config import Config, TextTaskConfig
from stages.common.errors import InputError
from stages.common.models.encoders.config import StudentConfig
from stages.common.training.config import TrainingConfig


class StudentSettings(Config):
    """Settings that a recipe gives to each training run of the student's encoder."""

    training: TrainingConfig | None = None
    """Length, learning rate and batch size. Not set for tune: head."""


class StudentTrainingConfig(TextTaskConfig, StudentSettings):
    """Base of configs of stages that train the student's encoder."""

    student: StudentConfig
    """The encoder."""
    seed: int = 0
    """Seed of the new head, the order of examples, and dropout."""

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        if self.training is None and self.student.tune == "full":
            raise InputError(
                "tune: full needs training settings.",
                "Add training: {learning_rate: 0.00005, epochs: 3}, or set tune: head.",
                key="training",
            )
        if self.training is not None and self.student.tune == "head":
            raise InputError(
                "tune: head fits a linear head, without training steps.",
                "Remove training, or set tune: full.",
                key="training",
            )
        return self
