"""Config models of batched prompt tuning: the backbone and its prompts."""

from __future__ import annotations

from pydantic import BaseModel, Field

from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.config import LossKind
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


class PromptJob(BaseModel, frozen=True, extra="forbid"):
    """One prompt: settings as those of the stage that would train it alone."""

    name: str = Field(description="Name of the step that takes the prompt.")
    task: Task = Field(description="Labels, patterns and label words.")
    pattern: str = Field(description="Name of the hard pattern.")
    prompt: PromptConfig = Field(description="Method and settings of the prompt.")
    loop: TrainingConfig = Field(description="Length and rates of the training.")
    loss: LossKind = Field("auto", description="cross_entropy, hinge, or auto: hinge where a word has several tokens.")
    seed: int = Field(description="Seed of start and order.")
    data: int = Field(ge=0, description="Which of the inputs' data it learns from.")
    pretrained: int | None = Field(None, ge=0, description="Which of the inputs' pretrained prompts it starts from.")


class BatchedTuningConfig(BaseModel, frozen=True, extra="forbid"):
    """Prompts over one backbone."""

    backbone: BackboneConfig = Field(description="The frozen language model.")
    jobs: tuple[PromptJob, ...] = Field(min_length=1, description="The prompts.")
