"""The split stage: samples disjoint train, dev, unlabeled and test sets.

A set is read from its own file or sampled from a `pool`. Sampling depends on the seed only: the same file and seed
give the same sets on every machine. The sets are written as human-readable JSON lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.config import Source
from stages.common.data.sources import read_examples
from stages.common.errors import DataError
from stages.common.examples import Example, write_examples
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.splits.config import SplitsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Sizes of the sets. `num_test_seen` counts the test examples that are also in the train or dev set.

    Files: `<set>.jsonl`, and `unlabeled_gold.jsonl` if the labels are known (for evaluation only).
    """

    num_train: int
    num_dev: int
    num_unlabeled: int
    num_test: int
    num_test_seen: int
    label_counts: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Split:
    """The four sets of a task."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    unlabeled: tuple[Example, ...]
    """With labels, if the source has them. Training must not use them."""
    test: tuple[Example, ...]


def run(config: SplitsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Samples the sets and writes them to `out`."""
    del inputs, engine
    split = sample_splits(config)
    hidden = [Example(item.uid, item.fields) for item in split.unlabeled]
    write_examples(out / "train.jsonl", split.train)
    write_examples(out / "dev.jsonl", split.dev)
    write_examples(out / "unlabeled.jsonl", hidden)
    write_examples(out / "test.jsonl", split.test)
    if split.unlabeled and all(item.label is not None for item in split.unlabeled):
        write_examples(out / "unlabeled_gold.jsonl", split.unlabeled)
    counts = {name: dict(Counter(item.label for item in getattr(split, name))) for name in ("train", "dev", "test")}
    seen = {_key(item, config.fields) for item in (*split.train, *split.dev)}
    recorder.log_table("train_examples", [{**item.fields, "label": item.label} for item in split.train])
    return Result(
        num_train=len(split.train),
        num_dev=len(split.dev),
        num_unlabeled=len(split.unlabeled),
        num_test=len(split.test),
        num_test_seen=sum(_key(item, config.fields) in seen for item in split.test),
        label_counts={name: {str(k): v for k, v in sorted(count.items())} for name, count in counts.items()},
    )


def sample_splits(config: SplitsConfig) -> Split:
    """Reads the sets that have a source, then samples the others from the pool without any text of the former.

    Raises:
        DataError: a source lacks a field or a label, or the pool has too few examples of a class.
    """
    data = config.data
    for name, source in data.sources.items():
        missing = [item for item in config.fields if item not in source.fields]
        if missing:
            raise DataError(
                f"the patterns use the field {missing[0]!r}, which data.{name}.fields does not have.",
                f"Add it ({missing[0]}: COLUMN), or use only these in the patterns: {', '.join(source.fields)}.",
                key=f"data.{name}.fields",
            )
    given = {
        name: tuple(_read(source, config.labels if source.label else None, name))
        for name, source in data.sources.items()
    }
    used = {_key(item, config.fields) for name, items in given.items() if name != "pool" for item in items}
    pool = _Pool(given.get("pool", ()), used, config)
    test = given["test"] if "test" in given else pool.sample(data.test_size, "test")
    train = given["train"] if "train" in given else pool.sample_per_class(data.shots, "shots")
    dev = given["dev"] if "dev" in given else pool.sample_per_class(data.dev_shots, "dev_shots")
    unlabeled = given["unlabeled"] if "unlabeled" in given else pool.sample(data.unlabeled_size, "unlabeled")
    for label in config.labels if train or data.shots else ():
        if not any(item.label == label for item in train):
            raise DataError(
                f"the labeled set has no example of the label {label!r}.", "Add one, or remove the label from labels.",
                key="data.train",
            )  # fmt: skip
    return Split(train, dev, unlabeled, test)


def _read(source: Source, labels: Sequence[str] | None, name: str) -> Iterable[Example]:
    try:
        return read_examples(source, labels, prefix=f"{name}-")
    except DataError as error:
        raise error.at(key=f"data.{name}") from error


def _key(example: Example, fields: Sequence[str]) -> str:
    """Returns a key that is equal for examples with the same text in the fields that the patterns use."""
    return "\x1f".join(" ".join(example.fields[name].casefold().split()) for name in fields)


class _Pool:
    """The distinct examples of the pool in shuffled order. Sampled examples are removed from it."""

    def __init__(self, examples: Iterable[Example], used: set[str], config: SplitsConfig) -> None:
        distinct: dict[str, Example] = {}
        for item in examples:
            key = _key(item, config.fields)
            if key not in used:
                distinct.setdefault(key, item)
        self.left = list(distinct.values())
        self.labels = config.labels
        python_rng(config.seed, "pool").shuffle(self.left)

    def sample(self, size: int, name: str) -> tuple[Example, ...]:
        """Removes `size` examples from the pool, for the set `name`, and returns them."""
        if size and len(self.left) < size:
            raise DataError(
                f"{name}_size is {size}, but the pool has {len(self.left)} distinct examples left.",
                f"Lower data.{name}_size, or use a larger pool.",
                key=f"data.{name}_size",
            )
        sampled, self.left = self.left[:size], self.left[size:]
        return tuple(sampled)

    def sample_per_class(self, shots: int, setting: str) -> tuple[Example, ...]:
        """Removes `shots` examples per class from the pool, as the key `setting` defines, and returns them."""
        sampled: list[Example] = []
        for label in self.labels:
            of_label = [item for item in self.left if item.label == label]
            if len(of_label) < shots:
                raise DataError(
                    f"{setting} is {shots} per class, but the pool has {len(of_label)} examples of {label!r} left.",
                    f"Lower data.{setting}, or use a larger pool.",
                    key=f"data.{setting}",
                )
            sampled.extend(of_label[:shots])
        uids = {item.uid for item in sampled}
        self.left = [item for item in self.left if item.uid not in uids]
        return tuple(sampled)
