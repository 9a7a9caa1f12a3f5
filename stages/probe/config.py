"""Config models of the probe and of its contrastive tuning."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config, TextTaskConfig
from stages.common.models.encoders.config import EncoderConfig
from stages.common.training.config import TrainingConfig


class ContrastiveConfig(Config):
    """How an encoder is tuned on pairs of labeled examples."""

    training: TrainingConfig = TrainingConfig(learning_rate=2e-5, batch_size=16, epochs=1, warmup_ratio=0.1)
    """Length, learning rate and batch size. A batch consists of pairs."""
    num_pairs: int | None = Field(None, ge=2)
    """Maximum number of pairs, half of them with equal labels. If not set, all pairs are used, and pairs of the rarer
    kind are repeated.
    """
    seed: int = 0
    """Seed of the pairs, their order and dropout."""


class ProbeSettings(Config):
    """Settings of a probe that a recipe defines."""

    encoder: EncoderConfig
    """The sentence encoder."""
    regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression. A higher value regularizes less."""
    contrastive: ContrastiveConfig | None = None
    """Tunes the encoder on pairs of labeled examples first, as SetFit does. If not set, the encoder is frozen."""


class ProbeConfig(TextTaskConfig, ProbeSettings):
    """One probe. Without `contrastive`, nothing in it is random."""
