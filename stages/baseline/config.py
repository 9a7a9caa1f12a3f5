"""Config model of the baseline stage."""

from __future__ import annotations

from pydantic import model_validator

from stages.common.config import Config
from stages.common.models.encoders.config import StudentConfig, check_training
from stages.common.training.config import TrainingConfig


class BaselineConfig(Config):
    """The student, trained without soft labels."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    fields: tuple[str, ...]
    """Fields to read; those behind the first make up its pair."""
    student: StudentConfig
    """The encoder."""
    training: TrainingConfig | None
    """Length and rates of the training; none for student.tune: head."""
    seed: int
    """Seed of head, order and dropout."""

    @model_validator(mode="after")
    def _loop_fits(self) -> BaselineConfig:
        check_training(self.student, self.training)
        return self
