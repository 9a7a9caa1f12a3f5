"""Config model of the learning-curve stage."""

from __future__ import annotations

from stages.common.config import Config

FIGURE_FILE = "learning_curve.png"


class LearningCurveConfig(Config):
    """The methods that the learning curve compares."""

    methods: tuple[str, ...]
    """Method of each measured step, in the order of the inputs."""
