"""Config model of the evaluation of an instruction-tuned model."""

from __future__ import annotations

from stages.common.models.cloze.config import ClozeConfig


class HeldOutConfig(ClozeConfig):
    """One pattern of a task that the model was not tuned on. Nothing is trained."""
