"""Config model of the baseline stage."""

from __future__ import annotations

from stages.common.training.student_config import StudentTrainingConfig


class BaselineConfig(StudentTrainingConfig):
    """The student's encoder, trained on labeled data only."""
