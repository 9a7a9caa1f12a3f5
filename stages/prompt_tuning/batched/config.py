"""Config models of batched prompt tuning: the backbone and its prompts."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.config import LossKind
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


class PromptJob(Config):
    """One prompt: settings as those of the stage that would train it alone."""

    name: str
    """Name of the step that takes the prompt."""
    task: Task
    """Labels, patterns and label words."""
    pattern: str
    """Name of the hard pattern."""
    prompt: PromptConfig
    """Method and settings of the prompt."""
    training: TrainingConfig
    """Length and rates of the training."""
    loss: LossKind = "auto"
    """cross_entropy, hinge, or auto: hinge where a word has several tokens."""
    seed: int
    """Seed of start and order."""
    data: int = Field(ge=0)
    """Which of the inputs' data it learns from."""
    pretrained: int | None = Field(None, ge=0)
    """Which of the inputs' pretrained prompts it starts from."""


class BatchedTuningConfig(Config):
    """Prompts over one backbone."""

    backbone: BackboneConfig
    """The frozen language model."""
    jobs: tuple[PromptJob, ...] = Field(min_length=1)
    """The prompts."""
