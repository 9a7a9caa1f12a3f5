"""Config model of the learning-curve stage."""

from __future__ import annotations

from pydantic import BaseModel, Field

FIGURE_FILE = "learning_curve.png"


class LearningCurveConfig(BaseModel, frozen=True, extra="forbid"):
    """What the inputs are."""

    methods: tuple[str, ...] = Field(description="Method of each measured step.")
