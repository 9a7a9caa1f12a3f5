"""Config models of the stage that labels shards."""

from __future__ import annotations

from pydantic import Field, field_validator

from stages.common.config import Config
from stages.common.data.config import Source
from stages.common.errors import InputError
from stages.soft_labels.config import LabelingConfig


class ShardsConfig(Config):
    """The shards of unlabeled examples, and how they are read."""

    source: Source
    """The shards. asset is a folder (its files that end in .parquet, .jsonl or .jsonl.gz) or a path with wildcards. It
    must exist on every machine.
    """
    batch_size: int = Field(256, ge=1)
    """Examples per batch that a worker receives."""

    @field_validator("source")
    @classmethod
    def _has_no_limit_and_no_label(cls, source: Source) -> Source:
        for key in ("limit", "label"):
            if getattr(source, key) is not None:
                raise InputError("shards are read in full and without labels.", f"Remove {key}.", key=key)
        return source


class ShardedLabelsConfig(LabelingConfig):
    """The ensemble and the shards that it labels."""

    shards: ShardsConfig
    """The shards."""
