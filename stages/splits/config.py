"""Config models of the split stage: where the sets of a task come from, and their sizes."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.common.config import Config
from stages.common.data.config import Source


class DataConfig(Config):
    """Where the sets of a task come from, and how large the drawn ones are."""

    pool: Source | None = None
    """Labelled texts from which the sets without a file are drawn."""
    train: Source | None = None
    """File of the labelled examples."""
    dev: Source | None = None
    """File of a labelled development set."""
    unlabeled: Source | None = None
    """File of the unlabelled texts."""
    test: Source | None = None
    """File of the labelled test set."""
    shots: int = Field(16, ge=0)
    """Labelled examples a class, drawn from the pool where train is no file; 0: no labels."""
    dev_shots: int = Field(0, ge=0)
    """Development examples a class, drawn from the pool."""
    unlabeled_size: int = Field(1000, ge=0)
    """Unlabelled examples, drawn where unlabeled is no file."""
    test_size: int = Field(500, ge=1)
    """Test examples, drawn where test is no file."""

    @model_validator(mode="after")
    def _everything_has_a_source(self) -> DataConfig:
        for name in ("train", "test"):
            if name == "train" and self.shots == 0:
                continue
            if getattr(self, name) is None and self.pool is None:
                raise ValueError(f"neither {name} nor pool is given. Name a file: {name}: {{asset: {name}.jsonl}}.")
        for name in ("pool", "train", "dev", "test"):
            source = getattr(self, name)
            if source is not None and source.label is None:
                raise ValueError(f"{name}.label is not given. Name the column of the label: label: category.")
        return self

    @property
    def has_dev(self) -> bool:
        """Whether there is a development set."""
        return self.dev is not None or (self.dev_shots > 0 and self.pool is not None)

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that are given, by name."""
        names = ("pool", "train", "dev", "unlabeled", "test")
        return {name: source for name in names if (source := getattr(self, name)) is not None}


class SplitsConfig(Config):
    """The split stage: the labels, where the texts are, the seed."""

    data: DataConfig
    """Sources and sizes."""
    labels: tuple[str, ...]
    """Labels of the task."""
    fields: tuple[str, ...]
    """Fields that the task's patterns take."""
    seed: int
    """Seed of the drawing."""
