"""The section of a recipe that asks for accuracy against the number of labelled texts, and what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from stages.errors import InputError
from stages.tasks import Name

if TYPE_CHECKING:
    from pipelines.config import PipelineConfig

CurveMethod = Literal["baseline", "ensemble", "student"]
"""What the curve of accuracy against labels measures."""


class LearningCurveSection(BaseModel, frozen=True, extra="forbid"):
    """Accuracy against the number of labelled texts. Its steps get what those of the whole recipe get."""

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=2, description="Labelled examples a class, a point of the curve for each number."
    )
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Each chooses other texts; smaller sets lie in the larger ones."
    )
    methods: tuple[CurveMethod, ...] = Field(
        ("baseline", "ensemble"),
        min_length=1,
        description="baseline, ensemble (a sub-model for each pattern), student; one run of each a number and seed.",
    )
    patterns: tuple[Name, ...] | None = Field(
        None, min_length=1, description="Patterns of the ensemble; none: those of pet."
    )
    members: tuple[Name, ...] = Field((), description="Of `members`, those that join the ensemble here too.")
    ipet: bool = Field(False, description="Whether the ensemble is that of the last generation of pet.ipet.")


def check_curve(config: PipelineConfig) -> None:
    """Refuses a curve that has no labels, no baseline or no patterns to be made of.

    Raises:
        InputError: names the key.
    """
    section = config.learning_curve
    if section is None:
        return
    if not config.has_labels:
        raise InputError("there are no labelled examples.", "Add some, or take this out.", key="learning_curve")
    if "baseline" in section.methods and config.baseline is None:
        raise InputError(
            "there is no baseline section, which says how it is trained.",
            "Add one, or leave methods with others: [ensemble].",
            key="learning_curve.methods",
        )
    most = max(section.shots)
    if config.data.train is None and most > config.data.shots:
        raise InputError(
            f"{most} examples a class are more than the {config.data.shots} of data.shots.",
            "Raise data.shots, or take the larger numbers out.",
            key="learning_curve.shots",
        )
    for name in section.members:
        if name not in config.members:
            raise InputError(
                f"there is no member {name!r}.",
                f"Take some of: {', '.join(config.members)}." if config.members else "The recipe has no members.",
                key="learning_curve.members",
            )
    if section.ipet and config.pet.ipet is None:
        raise InputError("pet.ipet is not set.", "Set it, or take this out.", key="learning_curve.ipet")
    known = config.patterns_of(config.pet)
    for name in section.patterns or ():
        if name not in known:
            raise InputError(
                f"pet has no pattern {name!r}.", f"Take some of: {', '.join(known)}.", key="learning_curve.patterns"
            )
