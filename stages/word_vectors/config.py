"""Config models of averaged word vectors."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import AssetRef, Config, SupervisedConfig


class WordVectorSettings(Config):
    """Settings of a classifier that averages word vectors."""

    asset: AssetRef
    """Reference of the model whose input embeddings are averaged: an encoder or a language model."""
    regularization_c: float = Field(1.0, gt=0)
    """C of scikit-learn's LogisticRegression. A higher value regularizes less."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples."""


class WordVectorConfig(SupervisedConfig, WordVectorSettings):
    """One classifier of averaged word vectors. Nothing in it is random."""
