"""Config model of the tuning stage of token-level tasks."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask


class TokenLevelTuningConfig(Config):
    """A task and its prompt."""

    task: TokenClassificationTask | QuestionAnsweringTask = Field(discriminator="kind")
    """What is asked of the texts."""
    backbone: BackboneConfig
    """The frozen language model."""
    prompt: PromptConfig
    """Method and settings of the prompt."""
    training: TrainingConfig
    """Length and rates of the training."""
    seed: int
    """Seed of start and order."""
