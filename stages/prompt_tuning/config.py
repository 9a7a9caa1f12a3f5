"""Config model of the prompt-tuning stage."""

from __future__ import annotations

from pydantic import BaseModel, Field

from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


class PromptTuningConfig(BaseModel, frozen=True, extra="forbid"):
    """A task, its hard pattern, and the prompt."""

    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the hard pattern.")
    backbone: BackboneConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(description="Method and settings of the prompt.")
    loop: TrainingConfig = Field(description="Length and rates of the training.")
    seed: int = Field(description="Seed of start and order.")
    name: str = Field("", description="Name of the prompt among those that were trained together, if it was.")
