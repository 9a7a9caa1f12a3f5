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

import numpy as np
import pyarrow
from numpy.typing import NDArray

from stages.common.data import parquet_shards
from stages.common.data.config import CorpusConfig
from stages.common.data.corpora import Window, distinct_sentences
from stages.common.data.parquet_shards import Rows
from stages.common.data.text_shards import shard_files
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.backbones.loader import load_backbone
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.seeds import python_rng
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.examples.corpus_shards import (
    Block,
    ShardAllocation,
    ShardPlan,
    allocate_examples,
    blocks,
    shard_indexer,
)
from stages.prompt_pretraining.formats import corpus_requirements
from stages.prompt_pretraining.next_sentence import choice_examples, pair_examples
from stages.prompt_pretraining.pseudo_labels import (
    BATCH_SIZE,
    ConfidentSentences,
    PseudoLabeler,
    confident_sentences,
    log_and_check,
    mark_new,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The documents that were used, and the rows that were written.

    Files: `<shard>.parquet`.
    """

    num_documents: int
    """Documents that are long enough and no duplicates, in shards that have enough of them."""
    num_read: int
    num_duplicates: int
    num_small: int
    """Shards with too few documents."""
    num_shards: int
    num_rows: int
    """For single all sentences that were labeled."""


def run(config: PretrainingExamplesConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Builds the examples of every shard.

    Raises:
        DataError: a row cannot be used, no shard has enough documents, or too few sentences are labeled with enough
            confidence.
    """
    del inputs
    plan = _plan_shards(config, recorder, engine)
    folder = out if engine.checkpoint_dir is None else engine.checkpoint_dir / "shards"
    folder.mkdir(exist_ok=True)
    build = _label_sentences if config.format == "single" else _sample_examples
    num_rows = build(config, plan.parts, folder, recorder, engine)
    if folder != out:
        parquet_shards.publish_shards(folder, out)
    return Result(
        num_documents=plan.num_documents,
        num_read=plan.num_read,
        num_duplicates=plan.num_duplicates,
        num_small=len(plan.small),
        num_shards=len(list(out.glob("*.parquet"))),
        num_rows=num_rows,
    )


def _plan_shards(config: PretrainingExamplesConfig, recorder: Recorder, engine: Engine) -> ShardPlan:
    """Indexes all shards in a first pass, and distributes the examples among them."""
    requirements = corpus_requirements(config.format, config.num_options[1])
    names = list(shard_files(config.corpus.source.asset))
    indices = []
    for index in engine.map_batches(names, _as_batch, partial(shard_indexer, config.corpus, requirements.sentences)):
        indices.append(index)
        recorder.log_progress(len(indices), len(names), phase="reading shards")
    num_required = config.num_examples * (config.single.candidates_per_example if config.format == "single" else 1)
    plan = allocate_examples(indices, requirements, num_required, f"the format {config.format}")
    recorder.log_metric("corpus/documents", plan.num_documents)
    recorder.log_metric("corpus/duplicates", plan.num_duplicates)
    recorder.log_metric("corpus/small_shards", len(plan.small))
    return plan


def _as_batch(shard: str) -> list[str]:
    """Returns a shard as its only batch."""
    return [shard]


def _sample_examples(
    config: PretrainingExamplesConfig,
    parts: Sequence[ShardAllocation],
    folder: Path,
    recorder: Recorder,
    engine: Engine,
) -> int:
    """Builds examples that need no labels; returns their number."""
    counts = {part.shard: len(part.example_range) for part in parts}
    left = [part for part in parts if not parquet_shards.is_done(folder, part.shard, counts[part.shard])]
    num_examples = sum(counts.values())
    num_done = num_examples - sum(len(part.example_range) for part in left)
    starts = {part.shard: part.example_range.start for part in parts}
    stream = engine.map_batches(left, _block_reader(config), partial(example_sampler, config, starts))
    for num_rows in parquet_shards.write_shards(stream, counts, folder):
        num_done += num_rows
        recorder.log_progress(num_done, num_examples, phase="building examples")
    return num_done


def example_sampler(config: PretrainingExamplesConfig, starts: dict[str, int]) -> Callable[[Block], Rows]:
    """Returns the function that samples the examples of a block, for every format but `single`.

    They depend on the seed, the name of the shard and the number of the block. `starts`: number of the first example of
    each shard.
    """

    def sample(block: Block) -> Rows:
        window, rng = _window(config.corpus, block), python_rng(config.seed, block.shard, block.number)
        first, count = block.example_range.start, len(block.example_range)
        if config.format == "pair":
            examples = pair_examples(window, count, rng, first=first)
        else:
            examples = choice_examples(window, count, config.num_options, rng, name=config.format, first=first)
        return Rows(block.shard, first - starts[block.shard], _table(examples))

    return sample


def _label_sentences(
    config: PretrainingExamplesConfig,
    parts: Sequence[ShardAllocation],
    folder: Path,
    recorder: Recorder,
    engine: Engine,
) -> int:
    """Labels sentences, shard by shard until there are enough; returns the number of labeled sentences."""
    seen: set[bytes] = set()
    sentences = confident_sentences(folder, config.single, seen)
    if not sentences.is_enough(config.num_examples):
        left = [part for part in parts if not (folder / f"{part.shard}.parquet").exists()]
        stream = engine.map_batches(left, _block_reader(config), partial(sentence_labeler, config, parts))
        enough = until_enough(stream, sentences, seen, config.single.min_confidence, config.num_examples)
        num_candidates = sum(len(part.example_range) for part in parts)
        for _ in parquet_shards.write_shards(enough, None, folder):
            recorder.log_progress(sentences.num_seen, num_candidates, phase="labeling sentences")
    log_and_check(config.single, sentences, config.num_examples, recorder)
    return sentences.num_seen


def sentence_labeler(config: PretrainingExamplesConfig, parts: Sequence[ShardAllocation]) -> Callable[[Block], Rows]:
    """Loads the model; returns the function that labels sentences of a block, for `single`.

    With calibration: unlabeled, every worker first labels the first sentences of `parts`, all shards, so all workers
    calibrate with the same reference. `Rows.first` is 0, because the number of rows of other blocks is not known.
    """
    backbone = load_backbone(config.backbone, frozen=True) if config.backbone else None
    recorder = NullRecorder()
    labeler = PseudoLabeler.of(config.single, backbone, config.backbone, recorder)

    def predict(sentences: Sequence[str]) -> NDArray[np.float64]:
        examples = [Example(str(number), {labeler.field: text}) for number, text in enumerate(sentences)]
        return softmax(labeler.model.predict(examples, recorder, "labeling sentences"))

    if config.single.calibration == "unlabeled" and config.single.classifier is None:
        all_blocks = (block for part in parts for block in blocks(config.corpus, 1, part))
        predict(list(islice(chain.from_iterable(_candidates(config, block) for block in all_blocks), BATCH_SIZE)))

    def label(block: Block) -> Rows:
        candidates = _candidates(config, block)
        examples: list[Example] = []
        confidences: list[float] = []
        while batch := list(islice(candidates, BATCH_SIZE)):
            for text, row in zip(batch, predict(batch), strict=True):
                uid = f"{block.shard}-{block.number}-{len(examples)}"
                examples.append(Example(uid, {"text": text}, labeler.labels[int(row.argmax())]))
                confidences.append(float(row.max()))
        return Rows(block.shard, 0, _table(examples, confidences))

    return label


def until_enough(
    stream: Iterable[Rows], sentences: ConfidentSentences, seen: set[bytes], min_confidence: float, num_examples: int
) -> Iterator[Rows]:
    """Yields rows of labeled sentences, each sentence once, until every class has its share of the examples.

    Args:
        stream: Rows of `sentence_labeler`, shard by shard.
        sentences: Sentences that were labeled before; new ones are added.
        seen: Digests of the sentences that were labeled before; new ones are added.
        min_confidence: Confidence that is enough.
        num_examples: Examples of all classes.
    """
    shard, first = "", 0
    for item in stream:
        first = 0 if item.shard != shard else first
        shard, table = item.shard, item.rows.filter(pyarrow.array(mark_new(item.rows, seen), pyarrow.bool_()))
        sentences.add_rows(table, min_confidence)
        yield Rows(shard, first, table)
        first += table.num_rows
        if sentences.is_enough(num_examples):
            return


def _block_reader(config: PretrainingExamplesConfig) -> Callable[[ShardAllocation], Iterator[Block]]:
    """Returns the function that reads the blocks of a shard."""
    return partial(blocks, config.corpus, corpus_requirements(config.format, config.num_options[1]).documents)


def _window(config: CorpusConfig, block: Block) -> Window:
    """Returns all documents of a block at once."""
    return Window([distinct_sentences(text, config.max_sentence_words) for text in block.texts], len(block.texts))


def _candidates(config: PretrainingExamplesConfig, block: Block) -> Iterator[str]:
    """Yields the sentences of a block to label."""
    rng = python_rng(config.seed, block.shard, block.number)
    return islice(_window(config.corpus, block).sentences(rng), len(block.example_range))


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
