"""Config models of batched prompt tuning: the backbone and its prompts."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.cloze.config import LossKind
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptTrainingConfig


class PromptJob(PromptTrainingConfig):
    """One prompt, with the settings of the stage that would train it on its own."""

    name: str
    """Name of the step that uses the prompt."""
    task: Task
    """Labels, patterns and label words."""
    pattern: str
    """Name of the pattern."""
    loss: LossKind = "auto"
    """cross_entropy, hinge, vocabulary, decoupled, or auto: hinge if a label word has several tokens."""
    data: int = Field(ge=0)
    """Index of its data among the inputs."""
    pretrained: int | None = Field(None, ge=0)
    """Index of its initial prompt among the pretrained prompts of the inputs. If not set, prompt.init applies."""


class BatchedTuningConfig(Config):
    """Soft prompts that are trained in the same batches, over one frozen language model."""

    backbone: BackboneConfig
    """The frozen language model."""
    jobs: tuple[PromptJob, ...] = Field(min_length=1)
    """The prompts."""
