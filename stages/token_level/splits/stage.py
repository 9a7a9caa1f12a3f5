"""The split stage of token-level tasks: reads or samples train, dev and test set, and counts overlapping texts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.downstream_sets import read_sets
from stages.common.protocols import Engine, Recorder
from stages.token_level.config import OUTSIDE
from stages.token_level.examples import TaggedText, TokenLevelExample, fields_of, read_examples, write_examples
from stages.token_level.splits.config import TokenLevelSplitsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Sizes of the sets. `num_test_seen` counts the test examples that are also in the train or dev set, `label_counts`
    the labels of words in the training set. Files: `<set>.jsonl`.
    """

    num_train: int
    num_dev: int
    num_test: int
    num_test_seen: int
    label_counts: dict[str, int]


def run(config: TokenLevelSplitsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Samples the sets and writes them to `out`."""
    del inputs, engine
    sets = sample_splits(config)
    for name in ("train", "dev", "test"):
        write_examples(out / f"{name}.jsonl", sets[name])
    counts = Counter(label for item in sets["train"] if isinstance(item, TaggedText) for label in item.labels)
    seen = {_key(item) for item in (*sets["train"], *sets["dev"])}
    recorder.log_table("train_examples", [_table_row(item) for item in sets["train"]])
    return Result(
        num_train=len(sets["train"]),
        num_dev=len(sets["dev"]),
        num_test=len(sets["test"]),
        num_test_seen=sum(_key(item) in seen for item in sets["test"]),
        label_counts=dict(sorted(counts.items())),
    )


def sample_splits(config: TokenLevelSplitsConfig) -> dict[str, list[TokenLevelExample]]:
    """Returns the sets `train`, `dev` (empty if it has no source) and `test`.

    Raises:
        DataError: a source lacks a field or a label, is malformed, or has too few examples.
    """
    return read_sets(
        config.data,
        config.task.name,
        fields_of(config.task),
        config.seed,
        lambda source, start: read_examples(source, config.task, start),
    )


def _key(item: TokenLevelExample) -> str:
    """Returns a key that is equal for examples with the same text."""
    text = " ".join(item.words) if isinstance(item, TaggedText) else f"{item.question}\x1f{item.context}"
    return " ".join(text.casefold().split())


def _table_row(item: TokenLevelExample) -> dict[str, str]:
    if isinstance(item, TaggedText):
        pairs = zip(item.words, item.labels, strict=True)
        return {"text": " ".join(word if label == OUTSIDE else f"{word}/{label}" for word, label in pairs)}
    return {"question": item.question, "answer": item.answers[0].text if item.answers else "", "context": item.context}
