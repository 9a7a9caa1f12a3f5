"""Config models of the verbalizer search."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.models.backbones.config import BackboneConfig
from stages.common.patterns.config import Task

SearchMethod = Literal["likelihood_ratio", "cross_entropy"]


class SearchConfig(Config):
    """How words are sought."""

    method: SearchMethod = "likelihood_ratio"
    """How a candidate is judged."""
    num_words: int = Field(10, ge=1)
    """Words a label."""
    num_candidates: int = Field(1000, ge=1)
    """Words that are looked at for each label: its likeliest."""

    @model_validator(mode="after")
    def _enough_candidates(self) -> Self:
        if self.num_candidates < self.num_words:
            raise ValueError("num_candidates is less than num_words. Raise num_candidates, or lower num_words.")
        return self


class VerbalizerSearchConfig(SearchConfig):
    """For which pattern words are sought, and how."""

    task: Task
    """Labels and the pattern; no label words."""
    pattern: str
    """Name of the pattern."""
    backbone: BackboneConfig
    """The language model."""
