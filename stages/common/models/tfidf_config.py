"""Config model of classifiers that count words."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.models.config import Analyzer


class TfidfSettings(Config):
    """Settings of a classifier that counts words."""

    analyzer: Analyzer = "word"
    """Units of the n-grams: word (1 and 2 words), or char (1 to 4 characters, for languages without spaces)."""
    regularization_c: float = Field(10.0, gt=0)
    """C of scikit-learn's LogisticRegression. A higher value regularizes less."""
    max_features: int = Field(100_000, ge=1)
    """Maximum number of n-grams. The most frequent ones are kept."""
