"""Config model of the tuning stage of token-level tasks."""

from __future__ import annotations

from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptTrainingConfig
from stages.token_level.config import TokenLevelConfig


class TokenLevelTuningConfig(TokenLevelConfig, PromptTrainingConfig):
    """A soft prompt with a linear head for a token-level task."""

    backbone: BackboneConfig
    """The frozen language model."""
