"""Config model of the stage that takes a part of the labeled examples."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config


class TrainSubsetConfig(Config):
    """How many labelled texts of each class, and which."""

    labels: tuple[str, ...]
    """Labels of the task."""
    shots: int = Field(ge=1)
    """Labelled examples a class."""
    seed: int
    """Seed of the choice; the same for all sizes."""
