"""Settings of cloze classifiers: pattern, backbone, the loss over label scores, auxiliary losses and demonstrations."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.encoders.config import EncoderConfig
from stages.common.patterns.config import Task

LossKind = Literal["auto", "cross_entropy", "hinge", "vocabulary", "decoupled"]
"""auto: hinge if a label word has several tokens, else cross-entropy, as in the two PET papers. cross_entropy compares
the labels with each other. vocabulary: the negative log-likelihood of the words of the gold label in the full
vocabulary, as in prompt tuning, PPT and FewCLUE. decoupled: a binary cross-entropy per label of the probability that
its words have in the full vocabulary, as in ADAPET.
"""
OVER_VOCABULARY: frozenset[LossKind] = frozenset({"vocabulary", "decoupled"})
"""Losses that need the log-likelihoods of label words among all words."""


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


class LabelConditioningConfig(Config):
    """The auxiliary loss of ADAPET: predicts hidden tokens of a labeled example, given a label."""

    weight: float = Field(1.0, gt=0)
    """Weight of the auxiliary loss. It is added to the label loss."""
    max_masked: float = Field(0.105, gt=0, lt=1)
    """Maximum fraction of the tokens of a text to hide. The fraction is random below it; at least one token is hidden.
    """


MIN_DEMONSTRATIONS = 2
"""Texts of each label to sample demonstrations from. A text never is its own demonstration, so with one text per label
the label without a demonstration would be the right one.
"""


class SampledDemonstrationsConfig(Config):
    """Demonstrations of LM-BFF: one labeled example per label with each text, sampled again for each training step."""

    max_length: int = Field(64, ge=8)
    """Maximum number of tokens of one demonstration in its pattern, with its label word. Longer ones lose tokens of
    their fields; the text itself is never cut for them. All of them must fit into the positions of the backbone.
    """
    num_samples: int = Field(16, ge=1)
    """Samples of demonstrations per text in a prediction, whose label scores are averaged."""
    most_similar: float = Field(1.0, gt=0, le=1)
    """Fraction of the labeled examples of each label to sample from: those that are most similar to the text. The paper
    uses 0.5. 1: all of them.
    """
    encoder: EncoderConfig | None = None
    """Encoder whose cosine is the similarity, for most_similar below 1. If not set, it is BM25."""

    @model_validator(mode="after")
    def _encoder_is_used(self) -> Self:
        if self.encoder is not None and self.most_similar == 1:
            raise InputError(
                "most_similar: 1 samples from all labeled examples, but encoder is set.",
                "Set most_similar: 0.5, or remove encoder.",
                key="encoder",
            )
        return self
