"""Config model of the baseline stage."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from stages.common.models.encoders.config import StudentConfig, check_training
from stages.common.training.config import TrainingConfig


class BaselineConfig(BaseModel, frozen=True, extra="forbid"):
    """The student, trained without soft labels."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    fields: tuple[str, ...] = Field(description="Fields to read; those behind the first make up its pair.")
    student: StudentConfig = Field(description="The encoder.")
    loop: TrainingConfig | None = Field(description="Length and rates of the training; none for student.tune: head.")
    seed: int = Field(description="Seed of head, order and dropout.")

    @model_validator(mode="after")
    def _loop_fits(self) -> BaselineConfig:
        check_training(self.student, self.loop)
        return self
