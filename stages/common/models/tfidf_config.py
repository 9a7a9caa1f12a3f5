"""Config model of classifiers that count words."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.models.config import Analyzer

WordClassifier = Literal["logistic_regression", "naive_bayes"]
"""Classifiers on TF-IDF features."""
DEFAULT_REGULARIZATION_C = 10.0


class TfidfSettings(Config):
    """Settings of a classifier that counts words."""

    analyzer: Analyzer = "word"
    """Units of the n-grams: word (1 and 2 words), or char (1 to 4 characters, for languages without spaces)."""
    classifier: WordClassifier = "logistic_regression"
    """logistic_regression, or naive_bayes (multinomial; it needs fewer labeled examples, and is more certain than it is
    right).
    """
    regularization_c: float = Field(DEFAULT_REGULARIZATION_C, gt=0)
    """For logistic_regression: C of scikit-learn's LogisticRegression. A higher value regularizes less."""
    smoothing: float = Field(1.0, gt=0)
    """For naive_bayes: alpha of scikit-learn's MultinomialNB, which is added to the weight of each n-gram."""
    max_features: int = Field(100_000, ge=1)
    """Maximum number of n-grams. The most frequent ones are kept."""

    @model_validator(mode="after")
    def _settings_are_used(self) -> Self:
        if self.classifier == "naive_bayes" and self.regularization_c != DEFAULT_REGULARIZATION_C:
            raise InputError(
                "regularization_c is for logistic regression.",
                "Remove it, or set classifier: logistic_regression.",
                key="regularization_c",
            )
        if self.classifier != "naive_bayes" and self.smoothing != 1.0:
            raise InputError(
                "smoothing is for naive Bayes.", "Remove it, or set classifier: naive_bayes.", key="smoothing"
            )
        return self
