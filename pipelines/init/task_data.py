"""The files of a task, and the section `data` that describes them in a new recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from pipelines.init.flags import TEXT
from pipelines.init.labeled_file import Conflicts, LabeledData, LabeledFile, TextData
from stages.common.errors import DataError

Data = TypeVar("Data", bound=TextData)
MAX_UNLABELED_ROWS = 20_000
"""Rows of a file of unlabeled texts that are kept; of a larger file, a sample."""
MAX_LABELED_ROWS = 1_000_000
"""Rows that a file with labels may have. A run keeps them in memory, in a few gigabytes."""
TEST_SHARE = 0.2
"""Fraction of the labeled texts that becomes the test set if there is no test file."""
MAX_TEST = 1000
MAX_TEST_OF_POOL = 500
"""Maximum size of the test set if only some labels of a file are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFiles:
    """The files that the user has. Only the train file is required."""

    train: LabeledFile
    unlabeled: tuple[LabeledFile, ...]
    dev: LabeledFile | None
    test: LabeledFile | None
    merge_labels: bool = False
    """Whether spelling variants of a label are one label."""
    conflicts: Conflicts = "drop"
    """What becomes of texts that occur with different labels."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """`id` and `group` -> the column that the user sets."""

    @classmethod
    def read(
        cls,
        train: str,
        unlabeled: Sequence[str] = (),
        dev: str | None = None,
        test: str | None = None,
        *,
        separator: str | None = None,
        merge_labels: bool = False,
        conflicts: Conflicts = "drop",
        keys: Mapping[str, str] | None = None,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> TaskFiles:
        """Reads all files. `separator`: text between the labels of a cell, if a cell has several.

        Raises:
            InputError: a file is missing, empty or damaged, or a file with labels is too large.
        """
        read_labeled = partial(LabeledFile, on_progress=on_progress, limit=MAX_LABELED_ROWS, separator=separator)
        return cls(
            train=read_labeled(train),
            unlabeled=tuple(LabeledFile(file, on_progress, max_rows=MAX_UNLABELED_ROWS) for file in unlabeled),
            dev=read_labeled(dev) if dev else None,
            test=read_labeled(test) if test else None,
            merge_labels=merge_labels,
            conflicts=conflicts,
            keys=keys or {},
        )

    def merged_spellings(self, label: str) -> Mapping[str, str]:
        """Returns key -> label of spellings in the train file that are one label."""
        return self.train.merged_spellings(label) if self.merge_labels else {}

    def labels(self, label: str) -> tuple[str, ...]:
        """Returns the labels of the task.

        Raises:
            DataError: there are fewer than two, or too many.
        """
        return self.train.labels(label, self.merged_spellings(label))

    def summarize(self, fields: Mapping[str, str], label: str) -> TaskData:
        """Returns the contents of the files.

        Args:
            fields: Field that patterns use -> its column in every file.
            label: Column of the label in every file but the unlabeled one.

        Raises:
            DataError: a file lacks a column, or a row has no text or another label than the train file; names the file.
        """
        merged = self.merged_spellings(label)
        for role, column in self.keys.items():
            self.train.column(column, f"--{role}", (*fields.values(), label))
        train = self._with_keys(self.train, self.train.summarize(fields, label, merged, self.conflicts))
        empty = [name for name, count in train.counts.items() if not count]
        if empty:
            raise DataError(
                f"{train.source.asset} has no text of its own for the label {empty[0]!r}.",
                "Use its first label: --conflicts first."
                if train.num_conflicts and self.conflicts == "drop"
                else "Add a row, or remove the rows with this label.",
            )
        unlabeled = []
        for file in self.unlabeled:
            # plain lines have no header, so their column has no name of the user
            own = dict.fromkeys(fields, TEXT) if len(fields) == 1 and file.columns == (TEXT,) else fields
            file.check_columns(own.values(), train.source.asset)
            unlabeled.append(self._with_keys(file, file.summarize_texts(own)))

        def labeled(file: LabeledFile | None) -> LabeledData | None:
            if file is None:
                return None
            file.check_columns((*fields.values(), label), train.source.asset)
            file.check_labels(label, train, merged)
            return self._with_keys(file, file.summarize(fields, label, merged, self.conflicts))

        return TaskData(
            train=train,
            unlabeled=tuple(unlabeled),
            dev=labeled(self.dev),
            test=labeled(self.test),
            conflicts=self.conflicts,
        )

    def _with_keys(self, file: LabeledFile, data: Data) -> Data:
        """Returns the contents of a file, with the keys that it has. Only the train file must have all of them."""
        keys = {role: column for role, column in self.keys.items() if column in file.columns}
        return replace(data, keys=keys, groups=file.values(keys["group"]) if "group" in keys else frozenset())


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """The contents of the files of a task."""

    train: LabeledData
    unlabeled: tuple[TextData, ...]
    dev: LabeledData | None
    test: LabeledData | None
    conflicts: Conflicts
    """What becomes of texts that occur with different labels."""

    def default_test_size(self, shots: int | None) -> int:
        """Returns the number of test examples to sample from the train file.

        Args:
            shots: Labeled examples per class, if not all labels are used.

        Raises:
            DataError: no text is left for a test set.
        """
        total = self.train.num_certain if self.conflicts == "soft" else self.train.total
        num_labels = len(self.train.labels)
        num_spare = total - (shots or 1) * num_labels
        if num_spare < 1:
            raise DataError(
                f"{self.train.source.asset} has {total} different texts of {num_labels} labels: "
                "none is left for a test set.",
                f"Set --test FILE, {'lower --shots, ' if shots else ''}or add rows with labels.",
            )
        if shots:
            return min(MAX_TEST_OF_POOL, max(1, total // 4))
        return min(MAX_TEST, max(1, round(TEST_SHARE * total)), num_spare)

    def section(self, shots: int | None, test_size: int | None) -> dict[str, Any]:
        """Returns the section `data`.

        Args:
            shots: Labeled examples per class; None: all labels of the train file.
            test_size: Test examples to sample from the train file; None: there is a test file.
        """
        section: dict[str, Any] = {"pool" if shots else "train": _labeled_source(self.train)}
        if self.dev:
            section["dev"] = _labeled_source(self.dev)
        unlabeled = self._unlabeled_sources(shots)
        if unlabeled:
            section["unlabeled"] = unlabeled if len(unlabeled) > 1 else unlabeled[0]
        if self.test:
            section["test"] = _labeled_source(self.test)
        if shots:
            section["shots"] = shots
        if test_size:
            section["test_size"] = test_size
        if self.num_conflicts:
            section["conflicts"] = self.conflicts
        return section

    @property
    def num_conflicts(self) -> int:
        """Number of texts that have several labels in one of the files."""
        return sum(data.num_conflicts for data in (self.train, self.dev, self.test) if data)

    def comments(self, shots: int | None) -> dict[str, str]:
        """Returns dotted key -> comment for the section."""
        rarest, train = min(self.train.counts.values()), f"data.{'pool' if shots else 'train'}"
        comments = {train: f"{self.train.total:,} different labeled texts, {rarest:,} of the rarest label"}
        if self.train.has_label_sets:
            comments["label_bias"] = "a threshold per label, with which it is as frequent as in held-out examples"
        if self.train.num_empty:
            comments[f"{train}.drop_empty"] = f"{self.train.num_empty:,} rows have no text"
        if not self.test:
            comments["data.test_size"] = f"sampled from the {'pool' if shots else 'train file'}"
        sources = [f"rows without a label: {self.train.num_unlabeled:,}"] if self._uses_own_unlabeled(shots) else []
        sources += [f"{sum(item.num_texts for item in self.unlabeled):,} texts"] if self.unlabeled else []
        if sources:
            comments["data.unlabeled"] = " and ".join(sources)
        if self.num_conflicts:
            choices = "first, drop or keep" if self.train.has_label_sets else "first, drop, soft or keep"
            comments["data.conflicts"] = f"texts with different labels: {self.num_conflicts:,}; {choices}"
        return comments

    def _uses_own_unlabeled(self, shots: int | None) -> bool:
        """Returns True if the rows of the train file without a label are unlabeled data.

        With `shots` the labeled rows that are left are unlabeled data, unless there is more of the other kind.
        """
        if shots and not self.unlabeled:
            return self.train.num_unlabeled > max(self.train.total // 2, 1)
        return self.train.num_unlabeled > 0

    def _unlabeled_sources(self, shots: int | None) -> list[dict[str, Any]]:
        sources = []
        if self._uses_own_unlabeled(shots):
            own = _source(self.train)
            own["filter"] = {self.train.label: list(self.train.unlabeled)}
            sources.append(own)
        return [*sources, *map(_source, self.unlabeled)]


def _source(data: TextData) -> dict[str, Any]:
    source: dict[str, Any] = {"asset": data.source.asset}
    source |= data.source.model_dump(include={"encoding", "delimiter", "split", "subset"}, exclude_defaults=True)
    source["fields"] = dict(data.fields)
    source |= data.keys
    return source | ({"drop_empty": True} if data.num_empty or data.is_sample else {})


def _labeled_source(data: LabeledData) -> dict[str, Any]:
    source = _source(data) | {"label": data.label}
    if data.separator:
        source["label_separator"] = data.separator
    if data.label_map:
        source["label_map"] = dict(data.label_map)
    if data.unlabeled:
        source["filter"] = {data.label: sorted({*data.labels, *data.label_map})}
    return source
