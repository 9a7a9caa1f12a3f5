"""Config model of the stage that takes a part of the labeled examples."""

from __future__ import annotations

from pydantic import BaseModel, Field


class TrainSubsetConfig(BaseModel, frozen=True, extra="forbid"):
    """How many labelled texts of each class, and which."""

    labels: tuple[str, ...] = Field(description="Labels of the task.")
    shots: int = Field(ge=1, description="Labelled examples a class.")
    seed: int = Field(description="Seed of the choice; the same for all sizes.")
