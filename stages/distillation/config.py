"""Config models of the distillation stage: the student, and how it is trained on soft labels."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config, TextTaskConfig
from stages.common.training.student_config import StudentSettings, StudentTrainingConfig

MIN_UNLABELED = 50
"""Unlabeled examples below which students learn little from soft labels, whatever the number of labels."""


def min_unlabeled(num_labels: int) -> int:
    """Returns the number of unlabeled examples from which students are worth their time: one or more per label."""
    return max(MIN_UNLABELED, num_labels)


class SelectionSettings(Config):
    """Settings of the examples that students learn from."""

    gold_weight: float = Field(0.0, ge=0, lt=1)
    """Weight of the labeled examples in the loss. The soft labels have the weight 1 - gold_weight."""
    keep_fraction: float = Field(1.0, gt=0, le=1)
    """Fraction of the examples of each predicted label that is kept, the most confident first."""
    min_confidence: float = Field(0.0, ge=0, lt=1)
    """Examples whose highest probability is lower are left out. Of several labels per example: the probability of the
    least certain decision.
    """


class SelectionConfig(TextTaskConfig, SelectionSettings):
    """The examples that one student learns from."""

    label_unlabeled: bool = False
    """If true, also labels the unlabeled set, as a teacher of another student."""
    max_student_examples: int | None = Field(None, ge=1)
    """Maximum number of examples from shards. Not set if the unlabeled data is not in shards."""
    seed: int = 0
    """Seed of the sample of shards, and of the training."""


class DistillationSettings(StudentSettings, SelectionSettings):
    """Settings of distillation that a recipe defines."""

    temperature: float = Field(2.0, gt=0)
    """Divides the logits of teacher and student in the loss. Above 1 it makes their distributions softer. For
    tune: full.
    """


class DistillationConfig(StudentTrainingConfig, DistillationSettings, SelectionConfig):
    """A student with an encoder, trained on the soft labels of the ensemble."""
