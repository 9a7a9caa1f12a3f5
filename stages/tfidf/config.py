"""Config models of the TF-IDF stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import Config, TextTaskConfig


class TfidfSettings(Config):
    """Settings of a TF-IDF member that a recipe defines."""

    analyzer: Literal["word", "char"] = "word"
    """Units of the n-grams: word (1 and 2 words), or char (1 to 4 characters, for languages without spaces)."""
    regularization_c: float = Field(10.0, gt=0)
    """C of scikit-learn's LogisticRegression. A higher value regularizes less."""
    num_folds: int = Field(4, ge=2)
    """Folds of the cross-validation on the labeled examples."""


class TfidfConfig(TextTaskConfig, TfidfSettings):
    """One TF-IDF member. Nothing in it is random."""
