"""Settings of cloze classifiers: pattern and backbone, the loss over label scores, and the auxiliary masked-LM loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task

LossKind = Literal["auto", "cross_entropy", "hinge", "vocabulary"]
"""auto: hinge if a label word has several tokens, else cross-entropy, as in the two PET papers. cross_entropy compares
the labels with each other. vocabulary: the negative log-likelihood of the words of the gold label in the full
vocabulary, as in prompt tuning, PPT and FewCLUE.
"""


class ClozeConfig(Config):
    """Base of configs that read texts with one pattern and one language model."""

    task: Task
    """Labels, patterns and label words."""
    pattern: str
    """Name of the pattern."""
    backbone: BackboneConfig
    """The language model."""


class MlmConfig(Config):
    """The auxiliary masked-LM loss on unlabeled data."""

    weight: float = Field(1e-4, gt=0, lt=1)
    """Weight of the auxiliary loss. The label loss has the weight 1 - weight."""
    mlm_probability: float = Field(0.15, gt=0, lt=1)
    """Fraction of the tokens to predict."""
    batch_size: int = Field(8, ge=1)
    """Unlabeled examples per optimizer step. Micro-batches share them, as they share the labeled examples."""
