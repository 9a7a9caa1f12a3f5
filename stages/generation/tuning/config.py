"""Config model of the tuning stage of text generation."""

from __future__ import annotations

from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptTrainingConfig
from stages.generation.config import TargetTask


class GenerationTuningConfig(PromptTrainingConfig):
    """A soft prompt for a text generation task."""

    task: TargetTask
    """The task. How texts are generated and scored does not change the training."""
    backbone: BackboneConfig
    """The frozen language model."""
