"""Settings of cloze classifiers: the loss over label scores, and the auxiliary masked-LM loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Config

LossKind = Literal["auto", "cross_entropy", "hinge"]
"""auto: hinge where a label word has several tokens, else cross-entropy, as in PET's two papers."""


class MlmConfig(Config):
    """The auxiliary loss."""

    weight: float = Field(1e-4, gt=0, lt=1)
    """Weight of the auxiliary loss; the label loss has the rest."""
    mlm_probability: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are chosen."""
    batch_size: int = Field(8, ge=1)
    """Unlabelled texts beside each forward pass of labelled ones."""
