"""Config models of the stage that labels shards."""

from __future__ import annotations

from pydantic import Field, field_validator

from stages.common.config import Config
from stages.common.data.config import Source
from stages.soft_labels.config import EnsembleConfig


class ShardsConfig(Config):
    """The shards of texts, and how they are read."""

    source: Source
    """The shards: asset names a folder (its files that end in .parquet, .jsonl or .jsonl.gz) or a path with wildcards,
    alike on every machine.
    """
    batch_size: int = Field(256, ge=1)
    """Texts that go to a worker at a time."""

    @field_validator("source")
    @classmethod
    def _is_read_whole(cls, source: Source) -> Source:
        if source.limit is not None or source.label is not None:
            raise ValueError("shards are read whole and without labels. Take limit and label out.")
        return source


class ShardedLabelsConfig(Config):
    """The ensemble and the shards that it labels."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How votes are mixed."""
    groups: tuple[str, ...]
    """Kind of each member, for balanced weights."""
    shards: ShardsConfig
    """The shards."""
