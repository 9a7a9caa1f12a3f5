"""The section of a recipe for the raw text of prompt pretraining."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipelines.schema.stream_section import StreamSection
from stages.errors import InputError
from stages.texts.corpora import CorpusConfig


class CorpusShards(StreamSection, frozen=True):
    """The examples are built on many workers, shard by shard, in steps of their own."""


class CorpusSection(CorpusConfig, frozen=True):
    """A raw corpus: one document a row."""

    shards: CorpusShards | None = Field(
        None,
        description="Builds the examples on many workers, of all shards of a folder (source.asset), and keeps those of "
        "a shard when they are done; none: in the step that trains, from the start of the corpus.",
    )

    @model_validator(mode="after")
    def _shards_are_read_whole(self) -> CorpusSection:
        if self.shards is not None and self.source.limit is not None:
            raise InputError("shards are read whole.", "Take limit out, or shards.", key="source.limit")
        return self

    @property
    def reading(self) -> CorpusConfig:
        """What decides the result."""
        return CorpusConfig(**{name: getattr(self, name) for name in CorpusConfig.model_fields})
