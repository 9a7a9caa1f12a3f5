"""Config models of the baseline stage."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config, SupervisedConfig
from stages.common.training.student_config import StudentTrainingConfig


class BaselineSettings(Config):
    """Settings of an encoder that is trained on labeled data only, which a recipe defines."""

    num_folds: int | None = Field(None, ge=2)
    """Folds of the cross-validation on the labeled examples. Each fold trains a new encoder. If not set, there is no
    cross-validation.
    """


class BaselineConfig(StudentTrainingConfig, SupervisedConfig, BaselineSettings):
    """An encoder, trained on labeled data only."""

    label_unlabeled: bool = False
    """If true, also labels the unlabeled set, as a member of the ensemble."""
