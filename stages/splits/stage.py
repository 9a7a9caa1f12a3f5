"""The split stage: samples disjoint train, dev, unlabeled and test sets.

A set is read from its own files or sampled from a `pool`; the test set also from the train file. Sampling depends on
the seed only: the same files and seed give the same sets on every machine. The sets are written as human-readable JSON
lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stages.common.data.config import Source
from stages.common.data.groups import group_numbers
from stages.common.data.sampling import reservoir_sample
from stages.common.data.sources import as_text, column, filtered_rows, iter_examples, stream_examples
from stages.common.data.text_keys import text_key
from stages.common.errors import DataError
from stages.common.examples import Example, Label, label_set, table_rows, write_examples
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.splits.config import SplitsConfig

Stratum = TypeVar("Stratum", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Sizes of the sets. `num_test_seen` counts the test examples that are also in the train or dev set,
    `num_unlabeled_removed` the unlabeled examples that are left out because their text is in another set.

    Files: `<set>.jsonl`, and `unlabeled_gold.jsonl` if the labels are known (for evaluation only).
    """

    num_train: int
    num_dev: int
    num_unlabeled: int
    num_test: int
    num_test_seen: int
    num_unlabeled_removed: int
    label_counts: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Split:
    """The four sets of a task."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    unlabeled: tuple[Example, ...]
    """With labels, if the source has them. Training must not use them."""
    test: tuple[Example, ...]
    num_unlabeled_removed: int
    """Unlabeled examples that are left out because their text, or their group, is in another set."""


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
    counts = {name: count_labels(getattr(split, name)) for name in ("train", "dev", "test")}
    seen = {_key(item, config.fields) for item in (*split.train, *split.dev)}
    recorder.log_table("train_examples", table_rows(split.train))
    return Result(
        num_train=len(split.train),
        num_dev=len(split.dev),
        num_unlabeled=len(split.unlabeled),
        num_test=len(split.test),
        num_test_seen=sum(_key(item, config.fields) in seen for item in split.test),
        num_unlabeled_removed=split.num_unlabeled_removed,
        label_counts={name: dict(sorted(count.items())) for name, count in counts.items()},
    )


def count_labels(examples: Iterable[Example]) -> Counter[str]:
    """Returns label -> number of examples that have it."""
    return Counter(label for item in examples for label in label_set(item.label))


def sample_splits(config: SplitsConfig) -> Split:
    """Reads the sets that have a source, then samples the others from the pool without any text of the former.

    Raises:
        DataError: a source lacks a field or a label, or the pool or train file has too few examples.
    """
    data = config.data
    _check_fields(config)
    given = _read_labeled_sets(config)
    annotated = _read_annotated_sets(config)
    if data.test is None and data.pool is None and "train" in given:
        given["train"], given["test"] = _hold_out(given["train"], config)
    used = {_key(item, config.fields) for name, items in given.items() if name != "pool" for item in items}
    used |= _shared_texts(given.get("pool", ()), config)
    pool = _Pool(given.get("pool", ()), used, config)
    evaluated = [*given.get("dev", ()), *given.get("test", ())]
    pool.remove_groups(evaluated)
    known = [*given.get("train", ()), *evaluated]
    test = given["test"] if "test" in given else pool.sample_test_set(data.test_size, known)
    train = given["train"] if "train" in given else pool.sample_per_class(data.shots, "shots")
    dev = given["dev"] if "dev" in given else pool.sample_per_class(data.dev_shots, "dev_shots", train)
    evaluated_texts = {_key(item, config.fields) for item in (*dev, *test)}
    evaluated_groups = _groups((*dev, *test))
    joining = (item for item in annotated if _key(item, config.fields) not in evaluated_texts)
    train = [*train, *(item for item in joining if item.group not in evaluated_groups)]
    _check_ids(train, "annotated" if annotated else "train")
    others = _Others(texts={_key(item, config.fields) for item in (*train, *dev, *test)}, groups=evaluated_groups)
    unlabeled = _sample_unlabeled(pool.left, others, config)
    if train or data.shots:
        _check_labels(train, config.labels)
    return Split(tuple(train), tuple(dev), tuple(unlabeled), tuple(test), others.num_met)


def _check_fields(config: SplitsConfig) -> None:
    """Checks that every source has the fields that the patterns use."""
    for name, source in config.data.sources.items():
        missing = [item for item in config.fields if item not in source.fields]
        if missing:
            raise DataError(
                f"the patterns use the field {missing[0]!r}, which data.{name}.fields does not have.",
                f"Add it ({missing[0]}: COLUMN), or use only these in the patterns: {', '.join(source.fields)}.",
                key=f"data.{name}.fields",
            )


def _check_labels(train: Sequence[Example], labels: Sequence[str]) -> None:
    """Checks that the labeled set has an example of each label."""
    for label in labels:
        if not any(label in label_set(item.label) for item in train):
            raise DataError(
                f"the labeled set has no example of the label {label!r}.",
                "Add one, or remove the label from labels.",
                key="data.train",
            )


def _read_labeled_sets(config: SplitsConfig) -> dict[str, list[Example]]:
    """Returns name -> examples of the pool and of the labeled sets that have a source."""
    given = {
        name: list(_read(source, config, name))
        for name, source in config.data.sources.items()
        if name.partition(".")[0] not in ("annotated", "unlabeled")
    }
    for name, examples in given.items():
        _check_ids(examples, name)
        given[name] = _without_conflicts(examples, config, name)
    return given


def _read_annotated_sets(config: SplitsConfig) -> list[Example]:
    """Returns the labeled examples of the annotated files. They do not change which examples are sampled."""
    return [
        item
        for name, source in config.data.sources.items()
        if name.partition(".")[0] == "annotated"
        for item in _read_annotated(source, config.labels, name)
    ]


@contextmanager
def _located(name: str) -> Iterator[None]:
    """Adds the key of a source to an error."""
    try:
        yield
    except DataError as error:
        raise error.at(key=f"data.{name}") from error


@dataclass(slots=True)
class _Others:
    """What the other sets have, so that the unlabeled set has none of it."""

    texts: set[str]
    groups: set[str]
    """Groups of the sets that are evaluated."""
    num_met: int = 0
    """Number of unlabeled examples that are left out."""

    def without(self, examples: Iterable[Example], fields: Sequence[str]) -> Iterator[Example]:
        """Yields the examples that are in no other set."""
        for item in examples:
            if _key(item, fields) in self.texts or item.group in self.groups:
                self.num_met += 1
            else:
                yield item


def _unlabeled_sources(config: SplitsConfig) -> Iterator[Example]:
    """Yields the examples of the unlabeled sources, which may be more than fit into memory."""
    for name, source in config.data.sources.items():
        if name.partition(".")[0] == "unlabeled":
            yield from _read(source, config, name)


def _shared_texts(pool: Sequence[Example], config: SplitsConfig) -> set[str]:
    """Returns the texts of the pool that the unlabeled sources have too."""
    keys = {_key(item, config.fields) for item in pool}
    return {key for item in _unlabeled_sources(config) if (key := _key(item, config.fields)) in keys} if keys else set()


def _sample_unlabeled(pool: Sequence[Example], others: _Others, config: SplitsConfig) -> Sequence[Example]:
    """Returns the unlabeled set: a sample of its sources or, without any, of what is left of the pool."""
    size = config.data.unlabeled_size
    if config.data.unlabeled is None:  # the pool is shuffled already, so its first examples are a sample
        return list(others.without(pool, config.fields))[:size]
    candidates = others.without(_unlabeled_sources(config), config.fields)
    sampled, num_seen = reservoir_sample(candidates, size, python_rng(config.seed, "unlabeled"))
    if not num_seen:
        raise DataError(
            "every unlabeled text, or its group, is also in the train, dev or test set.",
            "Set it to other texts, or remove it.",
            key="data.unlabeled",
        )
    _check_ids(sampled, "unlabeled")
    return sampled


def _read(source: Source, config: SplitsConfig, name: str) -> Iterator[Example]:
    """Yields the examples of a source. Their labels are ignored if it has no label column."""
    labels = config.labels if source.label else None
    with _located(name):
        yield from iter_examples(source, labels, prefix=f"{name}-", problem_type=config.problem_type)


def _check_ids(examples: Sequence[Example], name: str) -> None:
    """Checks that the ids of a set differ. Row numbers always do."""
    repeated = next((uid for uid, count in Counter(item.uid for item in examples).items() if count > 1), None)
    if repeated is not None:
        raise DataError(
            f"two rows of data.{name} have the id {repeated!r}.",
            "Use a column with a different value in each row, or remove id.",
            key=f"data.{name}.id",
        )


def _read_annotated(source: Source, labels: Sequence[str], name: str) -> list[Example]:
    """Returns the examples of a file that have a label. Others wait for one."""
    assert source.label is not None
    with _located(name):
        values = {as_text(column(row, source.label, location)) for location, row in filtered_rows(source)}
        filled = {source.label: sorted(value for value in values if value.strip())}
        labeled = source.model_copy(update={"filter": source.filter | filled})
        return list(stream_examples(labeled, labels, prefix=f"{name}-"))


def _without_conflicts(examples: list[Example], config: SplitsConfig, name: str) -> list[Example]:
    """Returns the examples of a labeled set, without those that `data.conflicts` leaves out."""
    conflicts = config.data.conflicts
    if conflicts == "keep" or (conflicts == "soft" and name == "train"):
        return examples
    labels = _labels_of_texts(examples, config)

    def is_kept(item: Example) -> bool:
        of_text = labels[_key(item, config.fields)]
        return len(set(of_text)) == 1 or (conflicts == "first" and item.label == of_text[0])

    return [item for item in examples if is_kept(item)]


def _labels_of_texts(examples: Iterable[Example], config: SplitsConfig) -> dict[str, list[Label | None]]:
    """Returns key of a text -> labels of its examples."""
    labels: dict[str, list[Label | None]] = {}
    for item in examples:
        labels.setdefault(_key(item, config.fields), []).append(item.label)
    return labels


def _hold_out(examples: Sequence[Example], config: SplitsConfig) -> tuple[list[Example], list[Example]]:
    """Splits the examples of the train file into train and test set. No text and no group is in both.

    Raises:
        DataError: the file has too few texts to keep one per label in the train set.
    """
    labels = _labels_of_texts(examples, config)
    is_soft = config.data.conflicts == "soft"
    distinct: dict[str, Example] = {}
    for item in examples:
        key = _key(item, config.fields)
        if not is_soft or len(set(labels[key])) == 1:
            distinct.setdefault(key, item)
    strata = _strata(distinct)
    size, num_spare = config.data.test_size, len(distinct) - len(set(strata.values()))
    if num_spare < size:
        lower = f"Lower data.test_size to {num_spare}." if num_spare else "Set data.test, or add labeled examples."
        raise DataError(
            f"test_size is {size}, but train has {num_spare} distinct examples to spare: one per label stays in train.",
            lower,
            key="data.test_size",
        )
    if any(item.group is not None for item in examples):
        held_out = _held_out_groups(examples, strata, config)
    else:
        held_out = _held_out_texts(strata, config)
    test = [item for key, item in distinct.items() if key in held_out]
    return [item for item in examples if _key(item, config.fields) not in held_out], test


def _strata(distinct: Mapping[str, Example]) -> dict[str, str | None]:
    """Returns key of a text -> its label; of several labels the rarest one, so that it stays in the train set."""
    counts = count_labels(distinct.values())
    return {key: min(label_set(item.label), key=counts.__getitem__, default=None) for key, item in distinct.items()}


def _held_out_texts(strata: Mapping[str, str | None], config: SplitsConfig) -> set[str]:
    """Returns the keys of the test set: a sample of each stratum."""
    keys = list(strata)
    python_rng(config.seed, "test").shuffle(keys)
    by_label: dict[str | None, list[str]] = {}
    for key in keys:
        by_label.setdefault(strata[key], []).append(key)
    shares = proportional_shares({label: len(items) for label, items in by_label.items()}, config.data.test_size)
    return {key for label, items in by_label.items() for key in items[: shares[label]]}


def _held_out_groups(examples: Sequence[Example], strata: Mapping[str, str | None], config: SplitsConfig) -> set[str]:
    """Returns the keys of the test set: whole groups, which together have at most the share of each stratum, and then
    any that still fit.
    """
    texts_of: dict[int, set[str]] = {}
    for item, number in zip(examples, group_numbers(examples, config.fields), strict=True):
        texts_of.setdefault(number, set()).add(_key(item, config.fields))
    groups = [texts for texts in texts_of.values() if texts <= strata.keys()]
    python_rng(config.seed, "test").shuffle(groups)
    size, counts = config.data.test_size, Counter(strata.values())
    held_out: set[str] = set()
    taken: Counter[str | None] = Counter()
    for limits in (proportional_shares(counts, size), {label: count - 1 for label, count in counts.items()}):
        for texts in groups:
            added = Counter(strata[key] for key in texts - held_out)
            fits = all(taken[label] + count <= limits[label] for label, count in added.items())
            if fits and taken.total() + added.total() <= size:
                held_out |= texts
                taken += added
    if not held_out:
        raise DataError(
            f"test_size is {size}, but each group of train has more examples, or all of a label.",
            "Increase data.test_size, or set data.test.",
            key="data.test_size",
        )
    return held_out


def proportional_shares(counts: Mapping[Stratum, int], size: int) -> dict[Stratum, int]:
    """Divides `size` among labels in proportion to their counts, with at least one of each count left.

    Args:
        counts: Label -> number of examples.
        size: Sum of the shares: at most the sum of the counts, minus one per label.
    """
    total = sum(counts.values())
    exact = {label: size * count / total for label, count in counts.items()}
    shares = {label: min(int(exact[label]), count - 1) for label, count in counts.items()}
    while sum(shares.values()) < size:
        open_labels = [label for label, count in counts.items() if shares[label] < count - 1]
        furthest = max(open_labels, key=lambda label: exact[label] - shares[label])
        shares[furthest] += 1
    return shares


def _groups(examples: Iterable[Example]) -> set[str]:
    return {item.group for item in examples if item.group is not None}


def _key(example: Example, fields: Sequence[str]) -> str:
    """Returns a key that is equal for examples with the same text in the fields that the patterns use."""
    return text_key(example.fields[name] for name in fields)


class _Pool:
    """The distinct examples of the pool in shuffled order. Sampled examples are removed from it, and so are those that
    share a group with a set that is evaluated.
    """

    def __init__(self, examples: Iterable[Example], used: set[str], config: SplitsConfig) -> None:
        distinct: dict[str, Example] = {}
        for item in examples:
            key = _key(item, config.fields)
            if key not in used:
                distinct.setdefault(key, item)
        self.left = list(distinct.values())
        self.labels = config.labels
        python_rng(config.seed, "pool").shuffle(self.left)

    def remove_groups(self, examples: Iterable[Example]) -> None:
        """Removes the groups of a set that is evaluated."""
        groups = _groups(examples)
        self.left = [item for item in self.left if item.group not in groups]

    def sample_test_set(self, size: int, others: Iterable[Example]) -> tuple[Example, ...]:
        """Removes the `size` examples of the test set from the pool, and returns them: group by group, without groups
        of the other sets.
        """
        known = _groups(others)
        position: dict[str, int] = {}
        for number, item in enumerate(self.left):
            position.setdefault(item.group or item.uid, number)
        candidates = [item for item in self.left if item.group not in known]
        candidates.sort(key=lambda item: position[item.group or item.uid])
        if len(candidates) < size:
            raise DataError(
                f"test_size is {size}, but the pool has {len(candidates)} distinct examples left.",
                "Lower data.test_size, or use a larger pool.",
                key="data.test_size",
            )
        return self._removed(candidates[:size], is_evaluated=True)

    def sample_per_class(
        self, shots: int, setting: str, others: Iterable[Example] | None = None
    ) -> tuple[Example, ...]:
        """Removes `shots` examples per class from the pool, as the key `setting` defines, and returns them.

        Args:
            shots: Number of examples.
            setting: Its key.
            others: Examples with which a set that is evaluated shares no group. None: the set is for training.
        """
        known = _groups(others or ())
        sampled: list[Example] = []
        for label in self.labels:
            of_label = [item for item in self.left if item.label == label and item.group not in known]
            if len(of_label) < shots:
                raise DataError(
                    f"{setting} is {shots} per class, but the pool has {len(of_label)} examples of {label!r} left.",
                    f"Lower data.{setting}, or use a larger pool.",
                    key=f"data.{setting}",
                )
            sampled.extend(of_label[:shots])
        return self._removed(sampled, is_evaluated=others is not None)

    def _removed(self, sampled: Sequence[Example], *, is_evaluated: bool) -> tuple[Example, ...]:
        uids = {item.uid for item in sampled}
        self.left = [item for item in self.left if item.uid not in uids]
        if is_evaluated:
            self.remove_groups(sampled)
        return tuple(sampled)
