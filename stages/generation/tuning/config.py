"""Config model of the tuning stage of text generation."""

from __future__ import annotations

from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptTrainingConfig
from stages.generation.config import GenerationConfig


class GenerationTuningConfig(GenerationConfig, PromptTrainingConfig):
    """A soft prompt for a text generation task."""

    backbone: BackboneConfig
    """The frozen language model."""
