"""Config models of the probe and of its contrastive tuning."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.models.encoders.config import EncoderConfig
from stages.common.training.config import TrainingConfig


class ContrastiveConfig(Config):
    """How an encoder is tuned on pairs of labelled texts."""

    training: TrainingConfig = TrainingConfig(learning_rate=2e-5, batch_size=16, epochs=1, warmup_ratio=0.1)
    """Length and rates of the training; an item of a batch is a pair."""
    num_pairs: int | None = Field(None, ge=2)
    """Pairs at the most, half of each kind; none: all, the rarer kind repeated."""
    seed: int = 0
    """Seed of the pairs, their order and dropout."""


class ProbeConfig(Config):
    """One probe. Without `contrast` nothing in it is random."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    fields: tuple[str, ...]
    """Fields to read; those behind the first make up its pair."""
    encoder: EncoderConfig
    """The sentence encoder."""
    regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression: higher fits closer."""
    contrastive: ContrastiveConfig | None = None
    """Tunes the encoder on pairs first; none: it is frozen."""
