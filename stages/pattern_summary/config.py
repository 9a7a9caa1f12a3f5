"""Config model of the comparison of patterns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.common.config import SINGLE_LABEL, Config, ProblemType

SummaryMethod = Literal["mean", "best", "ensemble"]
"""How several patterns become one result."""


class PatternSummaryConfig(Config):
    """Untrained patterns of one task, and how they become one result."""

    labels: tuple[str, ...]
    """Labels of the task."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example has."""
    method: SummaryMethod
    """mean (of the scores), best (the pattern with the highest accuracy on the labeled examples), or ensemble (the mean
    of the probabilities).
    """
    patterns: tuple[str, ...] = Field(min_length=2)
    """Names of the patterns, in the order of their steps."""
