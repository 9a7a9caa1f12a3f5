"""Config model of the stage that samples a subset of the labeled examples."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config


class TrainSubsetConfig(Config):
    """Size and seed of a subset of the labeled examples."""

    labels: tuple[str, ...]
    """Labels of the task."""
    shots: int = Field(ge=1)
    """Labeled examples per class."""
    seed: int = 0
    """Seed of the sample. With one seed, a smaller subset is part of a larger one."""
