"""The split stage of token-level tasks: reads or samples train, dev and test set, and counts overlapping texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import DataError
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
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


def sample_splits(config: TokenLevelSplitsConfig) -> dict[str, Sequence[TokenLevelExample]]:
    """Returns the sets `train`, `dev` (empty if it has no source) and `test`.

    Raises:
        DataError: a source lacks a field or a label, is malformed, or has too few examples.
    """
    sets: dict[str, Sequence[TokenLevelExample]] = {"dev": ()}
    for name, source in config.data.sources.items():
        missing = [item for item in fields_of(config.task) if item not in source.fields]
        if missing:
            raise DataError(
                f"the task {config.task.name} needs the field {missing[0]!r}, which data.{name}.fields does not have.",
                f"Add it: {missing[0]}: COLUMN.",
                key=f"data.{name}.fields",
            )
        try:
            sets[name] = _sample(read_examples(source, config.task, f"{name}-"), name, config)
        except DataError as error:
            raise error.at(key=f"data.{name}") from error
    return sets


def _sample(examples: list[TokenLevelExample], name: str, config: TokenLevelSplitsConfig) -> list[TokenLevelExample]:
    """Samples the configured number of examples, in file order."""
    size: int | None = {"train": config.data.train_size, "test": config.data.test_size}.get(name)
    if size is None:
        return examples
    if size > len(examples):
        raise DataError(
            f"{name}_size is {size}, but the file has {len(examples)} examples.",
            f"Lower data.{name}_size.",
            key=f"data.{name}_size",
        )
    return [examples[number] for number in sorted(python_rng(config.seed, name).sample(range(len(examples)), size))]


def _key(item: TokenLevelExample) -> str:
    """Returns a key that is equal for examples with the same text."""
    text = " ".join(item.words) if isinstance(item, TaggedText) else f"{item.question}\x1f{item.context}"
    return " ".join(text.casefold().split())


def _table_row(item: TokenLevelExample) -> dict[str, str]:
    if isinstance(item, TaggedText):
        pairs = zip(item.words, item.labels, strict=True)
        return {"text": " ".join(word if label == OUTSIDE else f"{word}/{label}" for word, label in pairs)}
    return {"question": item.question, "answer": item.answers[0].text if item.answers else "", "context": item.context}
