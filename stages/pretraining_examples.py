"""The stage that builds the examples of prompt pretraining from a corpus in shards, on as many workers as there are.

A shard that is done stays done: a step that was killed goes on with the next one. See
stages/pretraining/corpus_shards.py for who makes how many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field

from stages.models.backbones import BackboneConfig
from stages.pretraining.corpus_shards import Block, Part, Shares
from stages.pretraining.formats import Format, NumOptions, need
from stages.pretraining.pseudo_labels import SingleConfig
from stages.protocols import Engine, Recorder
from stages.texts.corpora import CorpusConfig


class Config(BaseModel, frozen=True, extra="forbid"):
    """A format, and the corpus that its examples are made of."""

    format: Format = Field("pair", description="What is built: pair, choice, single or unified.")
    num_options: tuple[NumOptions, NumOptions] = Field(
        (6, 6), description="The fewest and the most options of an example; for choice and unified."
    )
    single: SingleConfig = Field(SingleConfig(), description="What labels the sentences; for single.")
    backbone: BackboneConfig | None = Field(
        None, description="What labels the sentences of single, where single names no classifier."
    )
    corpus: CorpusConfig = Field(description="The raw text; asset names a folder of shards.")
    num_held_out: int = Field(120, ge=3, description="Examples that are built beside corpus.num_examples.")
    seed: int = Field(description="Seed of the examples.")

    @property
    def num_examples(self) -> int:
        """All examples that are wanted."""
        return self.corpus.num_examples + self.num_held_out


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was built, of what.

    `num_documents`: those that were long enough and new, in shards that hold enough of them; `num_rows`: rows that were
    written, which for single are all sentences that were labelled; `num_small`: shards with too few documents.

    Files: `<shard>.parquet`, see stages/pretraining/example_shards.py.
    """

    num_documents: int
    num_read: int
    num_duplicates: int
    num_small: int
    num_shards: int
    num_rows: int


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples of every shard.

    Raises:
        DataError: a row cannot be used, no shard has documents enough, or nothing is labelled surely enough.
    """
    del inputs
    from stages.texts import row_shards

    shares = _shares(config, recorder, engine)
    folder = out if engine.work is None else engine.work / "shards"
    folder.mkdir(exist_ok=True)
    build = _label if config.format == "single" else _draw
    num_rows = build(config, shares.parts, folder, recorder, engine)
    if folder != out:
        row_shards.hand_over(folder, out)
    return Result(
        num_documents=shares.num_documents,
        num_read=shares.num_read,
        num_duplicates=shares.num_duplicates,
        num_small=len(shares.small),
        num_shards=len(list(out.glob("*.parquet"))),
        num_rows=num_rows,
    )


def _shares(config: Config, recorder: Recorder, engine: Engine) -> Shares:
    """The first pass: what is in the shards, and what is to be made of each."""
    from stages.pretraining.corpus_shards import share_out, surveyor
    from stages.texts.shards import files

    wanted = need(config.format, config.num_options[1])
    names = list(files(config.corpus.source.asset))
    surveys = []
    for found in engine.stream(names, _alone, partial(surveyor, config.corpus, wanted.sentences)):
        surveys.append(found)
        recorder.progress(len(surveys), len(names), phase="reading shards")
    num_wanted = config.num_examples * (config.single.candidates if config.format == "single" else 1)
    shares = share_out(surveys, wanted, num_wanted, f"the format {config.format}")
    for name, count in (
        ("documents", shares.num_documents), ("duplicates", shares.num_duplicates), ("small_shards", len(shares.small))
    ):  # fmt: skip
        recorder.metric(f"corpus/{name}", count)
    return shares


def _draw(config: Config, parts: Sequence[Part], folder: Path, recorder: Recorder, engine: Engine) -> int:
    """Examples that tell their own labels; returns how many."""
    from stages.pretraining.example_shards import drawer
    from stages.texts import row_shards

    counts = {part.shard: len(part.wanted) for part in parts}
    left = [part for part in parts if not row_shards.is_done(folder, part.shard, counts[part.shard])]
    total = sum(counts.values())
    done = total - sum(len(part.wanted) for part in left)
    starts = {part.shard: part.wanted.start for part in parts}
    make = partial(drawer, config.format, config.num_options, config.corpus, config.seed, starts)
    for num_rows in row_shards.write(engine.stream(left, _reader(config), make), counts, folder):
        done += num_rows
        recorder.progress(done, total, phase="building examples")
    return done


def _label(config: Config, parts: Sequence[Part], folder: Path, recorder: Recorder, engine: Engine) -> int:
    """Sentences that a model labels, shard by shard until there are enough; returns how many were labelled."""
    from stages.pretraining.example_shards import labeller, sure_of, until_enough
    from stages.pretraining.pseudo_labels import settle
    from stages.texts import row_shards

    seen: set[bytes] = set()
    found = sure_of(folder, config.single, seen)
    if not found.is_enough(config.num_examples):
        left = [part for part in parts if not (folder / f"{part.shard}.parquet").exists()]
        make = partial(labeller, config.single, config.backbone, config.corpus, config.seed, parts)
        least = config.single.min_confidence
        enough = until_enough(engine.stream(left, _reader(config), make), found, seen, least, config.num_examples)
        total = sum(len(part.wanted) for part in parts)
        for _ in row_shards.write(enough, None, folder):
            recorder.progress(found.num_seen, total, phase="labelling sentences")
    settle(config.single, found, config.num_examples, recorder)
    return found.num_seen


def _reader(config: Config) -> Callable[[Part], Iterator[Block]]:
    """What reads the blocks of a shard."""
    from stages.pretraining.corpus_shards import blocks

    return partial(blocks, config.corpus, need(config.format, config.num_options[1]).documents)


def _alone(shard: str) -> list[str]:
    """A shard is a batch of its own."""
    return [shard]
