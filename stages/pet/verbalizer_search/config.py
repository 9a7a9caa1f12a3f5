"""Config models of the verbalizer search."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.errors import InputError
from stages.common.models.cloze.config import ClozeConfig

SearchMethod = Literal["likelihood_ratio", "cross_entropy"]


class SearchConfig(Config):
    """Settings of the search that a recipe defines."""

    method: SearchMethod = "likelihood_ratio"
    """Score of a candidate: likelihood_ratio or cross_entropy, as in PETAL."""
    num_words: int = Field(10, ge=1)
    """Label words per label."""
    num_candidates: int = Field(1000, ge=1)
    """Candidates per label: the words with the highest probability at the mask."""
    num_frequent: int | None = Field(10_000, ge=1)
    """Words that can become candidates: those that are most frequent in the labeled and unlabeled texts. If not set,
    all words of the vocabulary.
    """

    @model_validator(mode="after")
    def _has_enough_candidates(self) -> Self:
        if self.num_candidates < self.num_words:
            raise InputError(
                f"num_candidates ({self.num_candidates}) is lower than num_words ({self.num_words}).",
                "Raise num_candidates, or lower num_words.",
                key="num_candidates",
            )
        return self


class VerbalizerSearchConfig(ClozeConfig, SearchConfig):
    """The search for the label words of one pattern. `task` has no label words yet."""
