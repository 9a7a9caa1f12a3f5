"""Config models of the ensemble: how the logits of its members are calibrated, weighted and averaged."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.models.config import Average, Calibration, Weights


class EnsembleConfig(Config):
    """How the votes of the members become one."""

    average: Average = "logits"
    """Mean of raw logits (as PET) or of probabilities (for members of different kinds)."""
    weights: Weights = "uniform"
    """Weights of the members: uniform, accuracy (on the labelled set before training), or balanced (every kind of
    member weighs the same, however many members it has).
    """
    calibration: Calibration = "none"
    """What takes a member's preference for a label away: none, contextual (texts without content), or pile (the
    unlabelled texts; for labels that are about equally frequent).
    """
    temperature: float = Field(1.0, gt=0)
    """Divides the logits: above 1 makes soft labels softer."""


class SoftLabelsConfig(Config):
    """The ensemble and what it labels."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How votes are mixed."""
    members: tuple[str, ...]
    """Names of the members, in the order of the inputs."""
    groups: tuple[str, ...]
    """Kind of each member, for balanced weights."""
    dropped: tuple[str, ...] = ()
    """Members that failed and that the recipe lets be missing."""
