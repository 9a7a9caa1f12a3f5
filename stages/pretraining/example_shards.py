"""Shards of pretraining examples: what a worker makes of a block of documents, and how the examples are read.

Rows are: uid, label, fields. Of `single` they are all sentences that were labelled, sure or not, with a column
`confidence`: the top probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.measures.metrics import softmax
from stages.pretraining.corpus_shards import Block, Part, blocks
from stages.pretraining.examples import choice_examples, pair_examples
from stages.pretraining.formats import Format
from stages.pretraining.pseudo_labels import BATCH, Labeller, SingleConfig, Sure
from stages.protocols import SilentRecorder
from stages.seeds import python_rng
from stages.tasks import Example
from stages.texts.corpora import CorpusConfig, Window, distinct_sentences, text_digest
from stages.texts.row_shards import Rows, rows

if TYPE_CHECKING:
    import pyarrow

    from stages.models.backbones import BackboneConfig


def drawer(
    kind: Format, num_options: tuple[int, int], config: CorpusConfig, seed: int, starts: dict[str, int]
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
        first, count = block.wanted.start, len(block.wanted)
        if kind == "pair":
            examples = pair_examples(window, count, rng, first)
        else:
            examples = choice_examples(window, count, num_options, rng, kind, first)
        return Rows(block.shard, first - starts[block.shard], _table(examples))

    return draw


def labeller(
    config: SingleConfig,
    backbone: BackboneConfig | None,
    corpus: CorpusConfig,
    seed: int,
    parts: Sequence[Part],
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
    from stages.models.backbones import load

    recorder = SilentRecorder()
    model = Labeller.of(config, load(backbone, frozen=True) if backbone else None, backbone, recorder)

    def predicted(sentences: Sequence[str]) -> Any:
        examples = [Example(str(number), {model.field: text}) for number, text in enumerate(sentences)]
        return softmax(model.model.predict(examples, recorder, "labelling sentences"))

    if config.calibration == "pile" and config.classifier is None:  # what is labelled first tells what is preferred
        found = (block for part in parts for block in blocks(corpus, 1, part))
        predicted(list(islice(chain.from_iterable(_sentences(corpus, seed, block) for block in found), BATCH)))

    def label(block: Block) -> Rows:
        candidates = iter(_sentences(corpus, seed, block))
        examples: list[Example] = []
        confidences: list[float] = []
        while batch := list(islice(candidates, BATCH)):
            for text, row in zip(batch, predicted(batch), strict=True):
                uid = f"{block.shard}-{block.number}-{len(examples)}"
                examples.append(Example(uid, {"text": text}, model.labels[int(row.argmax())]))
                confidences.append(float(row.max()))
        return Rows(block.shard, 0, _table(examples, confidences))

    return label


def until_enough(
    stream: Iterable[Rows], found: Sure, seen: set[bytes], least: float, num_examples: int
) -> Iterator[Rows]:
    """Rows of labelled sentences, each sentence once, until every class has its share of the examples.

    Args:
        stream: From `labeller`, one shard after the other.
        found: What was labelled before; what comes is added.
        seen: Digests of the sentences that were labelled before; those that come are added.
        least: Confidence that is enough.
        num_examples: Examples of all classes.
    """
    import pyarrow

    shard, first = "", 0
    for item in stream:
        first = 0 if item.shard != shard else first
        shard, table = item.shard, item.rows.filter(pyarrow.array(_new(item.rows, seen), pyarrow.bool_()))
        note(found, table.to_batches(), least)
        yield Rows(shard, first, table)
        first += table.num_rows
        if found.is_enough(num_examples):
            return


def note(found: Sure, parts: Iterable[pyarrow.RecordBatch], least: float) -> None:
    """Counts labelled rows; keeps the sentences whose confidence is `least` or more."""
    for part in parts:
        for row in part.to_pylist():
            found.note(row["fields"]["text"], row["label"], row["confidence"], least)


def sure_of(folder: Path, config: SingleConfig, seen: set[bytes] | None = None) -> Sure:
    """What the labelled shards of a folder hold; `seen` gets the digests of their sentences."""
    found = Sure({label: [] for label in config.words})
    for part in rows(folder, ["fields", "label", "confidence"]):
        note(found, [part], config.min_confidence)
        if seen is not None:
            _new(part, seen)
    return found


def examples_of(folder: Path) -> list[Example]:
    """All examples of the shards of a folder, in the order of the shards."""
    parts = (part.to_pylist() for part in rows(folder, ["uid", "fields", "label"]))
    return [Example(row["uid"], row["fields"], row["label"]) for row in chain.from_iterable(parts)]


def _new(part: pyarrow.Table | pyarrow.RecordBatch, seen: set[bytes]) -> list[bool]:
    """Of each sentence whether it is new; then it is so no more."""
    found = []
    for fields in part.column("fields").to_pylist():
        digest = text_digest(fields["text"])
        found.append(digest not in seen)
        seen.add(digest)
    return found


def _window(config: CorpusConfig, block: Block) -> Window:
    """All documents of a block at once."""
    return Window([distinct_sentences(text, config.sentence_words) for text in block.texts], len(block.texts))


def _sentences(config: CorpusConfig, seed: int, block: Block) -> Iterator[str]:
    """The sentences of a block that are candidates."""
    return islice(_window(config, block).sentences(python_rng(seed, block.shard, block.number)), len(block.wanted))


def _table(examples: Sequence[Example], confidences: Sequence[float] | None = None) -> pyarrow.Table:
    import pyarrow

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
