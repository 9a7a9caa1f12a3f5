"""Config model of the learning-curve stage."""

from __future__ import annotations

from stages.common.config import Config

FIGURE_FILE = "learning_curve.png"


class LearningCurveConfig(Config):
    """What the inputs are."""

    methods: tuple[str, ...]
    """Method of each measured step."""
