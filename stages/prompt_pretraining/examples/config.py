"""Config model of the stage that builds pretraining examples from a corpus in shards."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import Config
from stages.common.data.config import CorpusConfig
from stages.common.models.backbones.config import BackboneConfig
from stages.prompt_pretraining.config import SingleConfig
from stages.prompt_pretraining.formats import NumOptions, PretrainingFormat


class PretrainingExamplesConfig(Config):
    """A format, and the corpus that its examples are made of."""

    format: PretrainingFormat = "pair"
    """What is built: pair, choice, single or unified."""
    num_options: tuple[NumOptions, NumOptions] = (6, 6)
    """The fewest and the most options of an example; for choice and unified."""
    single: SingleConfig = SingleConfig()
    """What labels the sentences; for single."""
    backbone: BackboneConfig | None = None
    """What labels the sentences of single, where single names no classifier."""
    corpus: CorpusConfig
    """The raw text; asset names a folder of shards."""
    num_held_out: int = Field(120, ge=3)
    """Examples that are built beside corpus.num_examples."""
    seed: int
    """Seed of the examples."""

    @property
    def num_examples(self) -> int:
        """All examples that are wanted."""
        return self.corpus.num_examples + self.num_held_out
