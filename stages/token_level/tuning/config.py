"""Config model of the tuning stage of token-level tasks."""

from __future__ import annotations

from pydantic import BaseModel, Field

from stages.common.models.backbones.config import BackboneConfig
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask


class TokenLevelTuningConfig(BaseModel, frozen=True, extra="forbid"):
    """A task and its prompt."""

    task: TokenClassificationTask | QuestionAnsweringTask = Field(
        discriminator="kind", description="What is asked of the texts."
    )
    backbone: BackboneConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(description="Method and settings of the prompt.")
    loop: TrainingConfig = Field(description="Length and rates of the training.")
    seed: int = Field(description="Seed of start and order.")
