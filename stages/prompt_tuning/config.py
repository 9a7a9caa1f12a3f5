"""Config model of the prompt-tuning stage."""

from __future__ import annotations

from stages.common.models.cloze.config import ClozeConfig, LossKind
from stages.common.prompts.config import PromptTrainingConfig


class TunedPromptConfig(ClozeConfig, PromptTrainingConfig):
    """Base of configs that tune a soft prompt for one task and pattern, over a frozen language model."""

    loss: LossKind = "auto"
    """cross_entropy, hinge, vocabulary, decoupled, or auto: hinge if a label word has several tokens."""


class PromptTuningConfig(TunedPromptConfig):
    """A soft prompt for one task and pattern, over a frozen language model."""

    name: str = ""
    """Name of the prompt in the result of batched training. Empty if the prompt is trained on its own."""
