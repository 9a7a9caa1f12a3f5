"""Config model of the tuning stage of regression."""

from __future__ import annotations

from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptTrainingConfig
from stages.regression.config import RegressionTask


class RegressionTuningConfig(PromptTrainingConfig):
    """A soft prompt for a regression task."""

    task: RegressionTask
    """The task."""
    backbone: BackboneConfig
    """The frozen language model."""
