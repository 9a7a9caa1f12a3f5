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
    """Length, learning rate and batch size. Not set for student.tune: head."""


class StudentTrainingConfig(TextTaskConfig, StudentSettings):
    """Base of configs of stages that train the student's encoder."""

    student: StudentConfig
    """The encoder."""
    seed: int = 0
    """Seed of the new head, the order of examples, and dropout."""

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        check_training(self.student, self.training)
        return self


def check_training(student: StudentConfig, training: TrainingConfig | None) -> None:
    """Checks that training settings are given exactly if training steps are made.

    Raises:
        InputError: with the key `training`.
    """
    if training is None and student.tune == "full":
        raise InputError(
            "student.tune: full needs training settings.",
            "Add training: {learning_rate: 0.00005, epochs: 3}, or set student.tune: head.",
            key="training",
        )
    if training is not None and student.tune == "head":
        raise InputError(
            "student.tune: head fits a linear head, without training steps.",
            "Remove training, or set student.tune: full.",
            key="training",
        )
