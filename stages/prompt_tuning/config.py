"""Config model of the prompt-tuning stage."""

from __future__ import annotations

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.training.config import TrainingConfig


class PromptTuningConfig(Config):
    """A task, its hard pattern, and the prompt."""

    task: Task
    """Labels, patterns and label words."""
    pattern: str
    """Name of the hard pattern."""
    backbone: BackboneConfig
    """The frozen language model."""
    prompt: PromptConfig
    """Method and settings of the prompt."""
    training: TrainingConfig
    """Length and rates of the training."""
    seed: int
    """Seed of start and order."""
    name: str = ""
    """Name of the prompt among those that were trained together, if it was."""
