"""Config models of the split stage: the sources of a task's sets, and their sizes."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.data.config import Source
from stages.common.errors import InputError


class DataConfig(Config):
    """Sources of the sets of a task, and the sizes of the sets that are sampled from the pool."""

    pool: Source | None = None
    """Labeled examples. Sets without their own source are sampled from it."""
    train: Source | None = None
    """Source of the labeled set."""
    dev: Source | None = None
    """Source of the labeled dev set."""
    unlabeled: Source | None = None
    """Source of the unlabeled set."""
    test: Source | None = None
    """Source of the labeled test set."""
    shots: int = Field(16, ge=0)
    """Labeled examples per class to sample from the pool if train is not set. 0: no labeled data."""
    dev_shots: int = Field(0, ge=0)
    """Dev examples per class to sample from the pool."""
    unlabeled_size: int = Field(1000, ge=0)
    """Unlabeled examples to sample from the pool if unlabeled is not set."""
    test_size: int = Field(500, ge=1)
    """Test examples to sample from the pool if test is not set."""

    @model_validator(mode="after")
    def _every_set_has_a_source(self) -> DataConfig:
        for name in ("train", "test"):
            is_needed = name == "test" or self.shots > 0
            if is_needed and getattr(self, name) is None and self.pool is None:
                raise InputError(f"neither {name} nor pool is set.", f"Set a file: {name}: {{asset: {name}.jsonl}}.")
        for name in ("pool", "train", "dev", "test"):
            source = getattr(self, name)
            if source is not None and source.label is None:
                raise InputError(
                    f"{name}.label is not set.", "Set the column of the label: label: category.", key=f"{name}.label"
                )
        return self

    @property
    def has_dev(self) -> bool:
        """Returns True if there is a dev set."""
        return self.dev is not None or (self.dev_shots > 0 and self.pool is not None)

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are set, by name."""
        names = ("pool", "train", "dev", "unlabeled", "test")
        return {name: source for name in names if (source := getattr(self, name)) is not None}


class SplitsConfig(Config):
    """The sets of one task."""

    data: DataConfig
    """Sources and sizes."""
    labels: tuple[str, ...]
    """Labels of the task."""
    fields: tuple[str, ...]
    """Fields that the patterns of the task read."""
    seed: int = 0
    """Seed of the samples."""
