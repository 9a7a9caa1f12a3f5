"""Config models of the probe and of its contrastive tuning."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config, SupervisedConfig
from stages.common.errors import InputError
from stages.common.models.encoders.config import EncoderConfig
from stages.common.training.config import TrainingConfig


class ContrastiveConfig(Config):
    """How an encoder is tuned, so that texts with the same label get similar embeddings."""

    training: TrainingConfig = TrainingConfig(
        learning_rate=2e-5, batch_size=16, steps=40, lr_scheduler="constant", warmup_ratio=0.1, average_last=0.75
    )
    """Length, learning rate and batch size. A batch has texts of several labels, and every pair in it counts."""
    seed: int = 0
    """Seed of the batches and of dropout."""
    average_folds: bool = False
    """If true, the encoder has the mean of the weights of the encoders that cross-validation tuned (Wortsman et al.,
    "Model soups", 2022, https://arxiv.org/abs/2203.05482). If false, it is tuned once more, on all labeled examples.
    """

    @model_validator(mode="after")
    def _batches_are_not_split(self) -> Self:
        if self.training.micro_batch_size is not None:
            raise InputError(
                "contrastive tuning compares all texts of a batch, which cannot be split into micro-batches.",
                "Remove micro_batch_size, or lower batch_size.",
                key="training.micro_batch_size",
            )
        return self


class ProbeSettings(Config):
    """Settings of a probe that a recipe defines."""

    encoder: EncoderConfig
    """The sentence encoder."""
    regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression. A higher value regularizes less."""
    contrastive: ContrastiveConfig | None = None
    """Tunes the encoder on the labeled examples first. If not set, the encoder is frozen."""
    pairs: Literal["joined", "separate"] = "joined"
    """How a pair of texts is read: joined (as one text), or separate (one by one; the head compares the two vectors, so
    it learns how the texts relate)."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples. With `contrastive`, each fold tunes a new encoder."""

    @model_validator(mode="after")
    def _tuned_encoders_read_pairs_joined(self) -> Self:
        if self.pairs == "separate" and self.contrastive is not None:
            raise InputError(
                "contrastive tuning moves texts with one label together, not the two texts of a pair.",
                "Remove contrastive, or set pairs: joined.",
                key="pairs",
            )
        return self


class ProbeConfig(SupervisedConfig, ProbeSettings):
    """One probe. Without `contrastive`, nothing in it is random."""
