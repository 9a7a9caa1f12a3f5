"""Config models of the ensemble: how the logits of its members are calibrated, weighted and averaged."""

from __future__ import annotations

from pydantic import BaseModel, Field

from stages.common.models.config import Average, Calibration, Weights


class EnsembleConfig(BaseModel, frozen=True, extra="forbid"):
    """How the votes of the members become one."""

    mean: Average = Field(
        "logits",
        description="Mean of raw logits (as PET) or of probabilities (for members of different kinds).",
    )
    weights: Weights = Field(
        "uniform",
        description="Weights of the members: uniform, accuracy (on the labelled set before training), or balanced "
        "(every kind of member weighs the same, however many members it has).",
    )
    calibration: Calibration = Field(
        "none",
        description="What takes a member's preference for a label away: none, contextual (texts without content), or "
        "pile (the unlabelled texts; for labels that are about equally frequent).",
    )
    temperature: float = Field(1.0, gt=0, description="Divides the logits: above 1 makes soft labels softer.")


class SoftLabelsConfig(BaseModel, frozen=True, extra="forbid"):
    """The ensemble and what it labels."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    ensemble: EnsembleConfig = Field(EnsembleConfig(), description="How votes are mixed.")
    members: tuple[str, ...] = Field(description="Names of the members, in the order of the inputs.")
    groups: tuple[str, ...] = Field(description="Kind of each member, for balanced weights.")
    dropped: tuple[str, ...] = Field((), description="Members that failed and that the recipe lets be missing.")
