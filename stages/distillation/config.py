"""Config model of the distillation stage: the student and how it is trained."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.models.encoders.config import StudentConfig, check_training
from stages.common.training.config import TrainingConfig


class DistillationConfig(Config):
    """The student and how it learns."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    fields: tuple[str, ...]
    """Fields to read; those behind the first make up its pair."""
    student: StudentConfig
    """The encoder."""
    training: TrainingConfig | None
    """Length and rates of the training; none for student.tune: head."""
    temperature: float = Field(2.0, gt=0)
    """Softens the teacher's and the student's distribution, for student.tune: full."""
    gold_weight: float = Field(0.0, ge=0, lt=1)
    """Share of the loss that comes from gold labels: of each batch's that has one, or of the whole fit."""
    keep_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the texts of each predicted label that are kept, surest first."""
    min_confidence: float = Field(0.0, ge=0, lt=1)
    """Texts whose top probability is lower are left out."""
    max_student_examples: int | None = Field(None, ge=1)
    """Texts of the shards that are learnt from at the most; none: there are no shards."""
    seed: int
    """Seed of head, order and dropout."""

    @model_validator(mode="after")
    def _loop_fits(self) -> DistillationConfig:
        check_training(self.student, self.training)
        return self
