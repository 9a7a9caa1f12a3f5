"""Builds the examples of prompt pretraining from a corpus in shards, on all available workers.

Completed shards are kept: an interrupted step continues with the next one. Rows are uid, label and fields. For
`single` they are all labeled sentences, confident or not, with a column `confidence`, the top probability. See
stages/prompt_pretraining/examples/corpus_shards.py for how many examples each shard yields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow

from stages.common.data import parquet_shards
from stages.common.data.config import CorpusConfig
from stages.common.data.corpora import Window, distinct_sentences
from stages.common.data.parquet_shards import Rows
from stages.common.data.text_shards import shard_files
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.seeds import python_rng
from stages.prompt_pretraining.config import SingleConfig
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.examples.corpus_shards import (
    Block,
    ShardAllocation,
    ShardPlan,
    allocate_examples,
    blocks,
    shard_indexer,
)
from stages.prompt_pretraining.formats import PretrainingFormat, corpus_requirements
from stages.prompt_pretraining.next_sentence import choice_examples, pair_examples
from stages.prompt_pretraining.pseudo_labels import (
    BATCH_SIZE,
    ConfidentSentences,
    PseudoLabeler,
    confident_sentences,
    count_rows,
    log_and_check,
    mark_new,
)


def example_sampler(
    kind: PretrainingFormat, num_options: tuple[int, int], config: CorpusConfig, seed: int, starts: dict[str, int]
) -> Callable[[Block], Rows]:
    """What draws the examples of a block, for every format but `single`.

    Args:
        kind: The format.
        num_options: The fewest and the most options, for formats that have some.
        config: The corpus.
        seed: Decides everything, with the names of the shards and the numbers of the blocks.
        starts: Name of each shard -> number of its first example.
    """

    def draw(block: Block) -> Rows:
        window, rng = _window(config, block), python_rng(seed, block.shard, block.number)
        first, count = block.example_range.start, len(block.example_range)
        if kind == "pair":
            examples = pair_examples(window, count, rng, first)
        else:
            examples = choice_examples(window, count, num_options, rng, kind, first)
        return Rows(block.shard, first - starts[block.shard], _table(examples))

    return draw


def sentence_labeler(
    config: SingleConfig,
    backbone: BackboneConfig | None,
    corpus: CorpusConfig,
    seed: int,
    parts: Sequence[ShardAllocation],
) -> Callable[[Block], Rows]:
    """What labels sentences of a block, for `single`; loads the model.

    Args:
        config: What labels, and how.
        backbone: Labels where `config` names no classifier.
        corpus: The corpus.
        seed: Decides which sentences of a block are labelled.
        parts: All shards. calibration: pile looks at their first sentences, in every worker, so that all of them
            calibrate alike.

    Returns:
        Of a block its rows; `Rows.first` is left at 0, for nobody knows what other blocks have.
    """

    recorder = NullRecorder()
    model = PseudoLabeler.of(config, load_backbone(backbone, frozen=True) if backbone else None, backbone, recorder)

    def predicted(sentences: Sequence[str]) -> Any:
        examples = [Example(str(number), {model.field: text}) for number, text in enumerate(sentences)]
        return softmax(model.model.predict(examples, recorder, "labelling sentences"))

    if (
        config.calibration == "unlabeled" and config.classifier is None
    ):  # what is labelled first tells what is preferred
        found = (block for part in parts for block in blocks(corpus, 1, part))
        predicted(list(islice(chain.from_iterable(_sentences(corpus, seed, block) for block in found), BATCH_SIZE)))

    def label(block: Block) -> Rows:
        candidates = iter(_sentences(corpus, seed, block))
        examples: list[Example] = []
        confidences: list[float] = []
        while batch := list(islice(candidates, BATCH_SIZE)):
            for text, row in zip(batch, predicted(batch), strict=True):
                uid = f"{block.shard}-{block.number}-{len(examples)}"
                examples.append(Example(uid, {"text": text}, model.labels[int(row.argmax())]))
                confidences.append(float(row.max()))
        return Rows(block.shard, 0, _table(examples, confidences))

    return label


def until_enough(
    stream: Iterable[Rows], sentences: ConfidentSentences, seen: set[bytes], min_confidence: float, num_examples: int
) -> Iterator[Rows]:
    """Rows of labelled sentences, each sentence once, until every class has its share of the examples.

    Args:
        stream: From `labeller`, one shard after the other.
        sentences: What was labelled before; what comes is added.
        seen: Digests of the sentences that were labelled before; those that come are added.
        min_confidence: Confidence that is enough.
        num_examples: Examples of all classes.
    """

    shard, first = "", 0
    for item in stream:
        first = 0 if item.shard != shard else first
        shard, table = item.shard, item.rows.filter(pyarrow.array(mark_new(item.rows, seen), pyarrow.bool_()))
        count_rows(sentences, table.to_batches(), min_confidence)
        yield Rows(shard, first, table)
        first += table.num_rows
        if sentences.is_enough(num_examples):
            return


def _window(config: CorpusConfig, block: Block) -> Window:
    """All documents of a block at once."""
    return Window([distinct_sentences(text, config.max_sentence_words) for text in block.texts], len(block.texts))


def _sentences(config: CorpusConfig, seed: int, block: Block) -> Iterator[str]:
    """The sentences of a block that are candidates."""
    return islice(
        _window(config, block).sentences(python_rng(seed, block.shard, block.number)), len(block.example_range)
    )


def _table(examples: Sequence[Example], confidences: Sequence[float] | None = None) -> pyarrow.Table:

    names = list(examples[0].fields)
    fields = [pyarrow.array([item.fields[name] for item in examples], pyarrow.string()) for name in names]
    columns: dict[str, Any] = {
        "uid": [item.uid for item in examples],
        "label": [item.label for item in examples],
        "fields": pyarrow.StructArray.from_arrays(fields, names),
    }
    if confidences is not None:
        columns["confidence"] = pyarrow.array(confidences, pyarrow.float64())
    return pyarrow.table(columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was built, of what.

    `num_documents`: those that were long enough and new, in shards that hold enough of them; `num_rows`: rows that were
    written, which for single are all sentences that were labelled; `num_small`: shards with too few documents.

    Files: `<shard>.parquet`, see stages/prompt_pretraining/examples/stage.py
    """

    num_documents: int
    num_read: int
    num_duplicates: int
    num_small: int
    num_shards: int
    num_rows: int


def run(config: PretrainingExamplesConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples of every shard.

    Raises:
        DataError: a row cannot be used, no shard has documents enough, or nothing is labelled surely enough.
    """
    del inputs

    shares = _plan_shards(config, recorder, engine)
    folder = out if engine.checkpoint_dir is None else engine.checkpoint_dir / "shards"
    folder.mkdir(exist_ok=True)
    build = _label_sentences if config.format == "single" else _sample_examples
    num_rows = build(config, shares.parts, folder, recorder, engine)
    if folder != out:
        parquet_shards.publish_shards(folder, out)
    return Result(
        num_documents=shares.num_documents,
        num_read=shares.num_read,
        num_duplicates=shares.num_duplicates,
        num_small=len(shares.small),
        num_shards=len(list(out.glob("*.parquet"))),
        num_rows=num_rows,
    )


def _plan_shards(config: PretrainingExamplesConfig, recorder: Recorder, engine: Engine) -> ShardPlan:
    """The first pass: what is in the shards, and what is to be made of each."""

    wanted = corpus_requirements(config.format, config.num_options[1])
    names = list(shard_files(config.corpus.source.asset))
    surveys = []
    for found in engine.map_batches(names, _alone, partial(shard_indexer, config.corpus, wanted.sentences)):
        surveys.append(found)
        recorder.log_progress(len(surveys), len(names), phase="reading shards")
    num_wanted = config.num_examples * (config.single.candidates_per_example if config.format == "single" else 1)
    shares = allocate_examples(surveys, wanted, num_wanted, f"the format {config.format}")
    for name, count in (
        ("documents", shares.num_documents), ("duplicates", shares.num_duplicates), ("small_shards", len(shares.small))
    ):  # fmt: skip
        recorder.log_metric(f"corpus/{name}", count)
    return shares


def _sample_examples(
    config: PretrainingExamplesConfig,
    parts: Sequence[ShardAllocation],
    folder: Path,
    recorder: Recorder,
    engine: Engine,
) -> int:
    """Examples that tell their own labels; returns how many."""

    counts = {part.shard: len(part.example_range) for part in parts}
    left = [part for part in parts if not parquet_shards.is_done(folder, part.shard, counts[part.shard])]
    total = sum(counts.values())
    done = total - sum(len(part.example_range) for part in left)
    starts = {part.shard: part.example_range.start for part in parts}
    make = partial(example_sampler, config.format, config.num_options, config.corpus, config.seed, starts)
    for num_rows in parquet_shards.write_shards(engine.map_batches(left, _reader(config), make), counts, folder):
        done += num_rows
        recorder.log_progress(done, total, phase="building examples")
    return done


def _label_sentences(
    config: PretrainingExamplesConfig,
    parts: Sequence[ShardAllocation],
    folder: Path,
    recorder: Recorder,
    engine: Engine,
) -> int:
    """Sentences that a model labels, shard by shard until there are enough; returns how many were labelled."""

    seen: set[bytes] = set()
    found = confident_sentences(folder, config.single, seen)
    if not found.is_enough(config.num_examples):
        left = [part for part in parts if not (folder / f"{part.shard}.parquet").exists()]
        make = partial(sentence_labeler, config.single, config.backbone, config.corpus, config.seed, parts)
        least = config.single.min_confidence
        enough = until_enough(engine.map_batches(left, _reader(config), make), found, seen, least, config.num_examples)
        total = sum(len(part.example_range) for part in parts)
        for _ in parquet_shards.write_shards(enough, None, folder):
            recorder.log_progress(found.num_seen, total, phase="labelling sentences")
    log_and_check(config.single, found, config.num_examples, recorder)
    return found.num_seen


def _reader(config: PretrainingExamplesConfig) -> Callable[[ShardAllocation], Iterator[Block]]:
    """What reads the blocks of a shard."""

    return partial(blocks, config.corpus, corpus_requirements(config.format, config.num_options[1]).documents)


def _alone(shard: str) -> list[str]:
    """A shard is a batch of its own."""
    return [shard]
