"""Reads a file of texts for a new recipe: its columns, its labels, and the number of texts per label."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.init.spellings import spelling_key, spelling_variants
from stages.common.data.config import Source
from stages.common.data.recognition import recognized_source
from stages.common.data.rows import read_rows
from stages.common.data.sampling import reservoir_sample
from stages.common.data.sources import as_text
from stages.common.data.text_keys import text_key
from stages.common.errors import DataError
from stages.common.seeds import python_rng

TEXT_NAMES = (
    "text", "message", "sentence", "review", "content", "body", "comment", "description", "document", "question",
    "query", "utterance", "tweet", "post", "abstract", "summary", "headline", "title",
)  # fmt: skip
"""Usual names of text columns, the most likely first."""
LABEL_NAMES = (
    "label", "labels", "category", "class", "topic", "sentiment", "intent", "target", "tag", "type", "rating", "stars",
    "y",
)  # fmt: skip
PAIR_NAMES = (
    ("text_a", "text_b"), ("text1", "text2"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"), ("question", "passage"),
    ("question", "context"), ("question", "answer"), ("query", "passage"), ("query", "document"),
)  # fmt: skip
"""Usual names of the two columns of a pair."""
Conflicts = Literal["drop", "first", "soft"]
"""What becomes of texts with several labels: they are left out, only the first label is used, or all labels are."""
MAX_LABELS = 500
MAX_LABEL_LENGTH = 60
ROWS_PER_REPORT = 10_000
MIN_WORDS = 3
"""Minimum mean number of words in a text column. Shorter values may be names or keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextData:
    """The texts of a file that a recipe describes."""

    source: Source
    """The file, with its encoding and delimiter."""
    fields: Mapping[str, str]
    """Field -> column."""
    num_rows: int
    is_sample: bool = False
    """Whether the rest describes a sample of the rows."""
    num_empty: int
    """Rows without text."""
    texts: Sequence[Mapping[str, str]]
    """The fields of each row with text; of labeled files, of each row that also has a label."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """`id` and `group` -> their column, if the user sets it and the file has it."""
    groups: frozenset[str] = frozenset()
    """Different values of the group."""

    @property
    def num_texts(self) -> int:
        """Number of rows with text; of a sample, an upper bound."""
        return self.num_rows if self.is_sample else len(self.texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabeledData(TextData):
    """The texts of a file with labels."""

    label: str
    """Column of the label."""
    labels: tuple[str, ...]
    label_map: Mapping[str, str]
    """Value in the file -> label, for values that are written in another way."""
    gold: Sequence[str]
    """Label of each of the texts."""
    num_conflicts: int
    """Different texts with several labels."""
    num_certain: int
    """Different texts with one label."""
    counts: Mapping[str, int]
    """Label -> number of different texts that are used."""
    unlabeled: Mapping[str, int]
    """Value of a row without a label -> number of rows."""

    @property
    def total(self) -> int:
        """Number of different labeled texts, of which each counts once per label that is used."""
        return sum(self.counts.values())

    @property
    def num_unlabeled(self) -> int:
        """Number of rows without a label."""
        return sum(self.unlabeled.values())


class LabeledFile:
    """The rows of a file of texts, with or without labels, or a sample of them."""

    def __init__(
        self,
        asset: str,
        on_progress: Callable[[str], None] = lambda _: None,
        *,
        max_rows: int = sys.maxsize,
        limit: int = sys.maxsize,
    ) -> None:
        """Reads the file.

        Args:
            asset: Reference of the file.
            on_progress: Called with what is read so far, after every `ROWS_PER_REPORT` rows.
            max_rows: Number of rows to keep. If there are more, they are a random sample.
            limit: Number of rows that the file may have.

        Raises:
            InputError: the file is missing, empty, damaged or too large; names the line.
        """
        self.asset = asset
        try:
            self.source = recognized_source(asset)
            columns: dict[str, None] = {}
            stream = self._stream(columns, on_progress, limit)
            self.rows, self.num_rows = reservoir_sample(stream, max_rows, python_rng(0, "init", asset))
        except DataError as error:
            if not error.remedy.startswith("Set format"):
                raise
            raise DataError(error.problem, "Rename it: NAME.csv, .tsv, .json, .jsonl or .parquet.") from error
        if not self.rows:
            raise DataError(f"{asset} has no rows.", "Write a row per text.")
        self.columns = tuple(columns)

    def _stream(
        self, columns: dict[str, None], on_progress: Callable[[str], None], limit: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields place and columns of each row. Adds the names of the columns to `columns`."""
        for number, (place, row) in enumerate(read_rows(self.source), 1):
            if number > limit:
                raise DataError(
                    f"{self.asset} has more than {limit:,} rows, and a run keeps all labeled examples in memory.",
                    "Keep a random sample, and move rows without a label to another file: --unlabeled FILE.",
                )
            flat = dict(_flat(row))
            columns |= dict.fromkeys(flat)
            if number % ROWS_PER_REPORT == 0:
                on_progress(f"{self.asset}: {number:,} rows")
            yield place, flat

    def column(self, name: str, flag: str, text: Sequence[str] = ()) -> str:
        """Returns the name of a column that the user chose with a flag.

        Raises:
            DataError: the column does not exist, or has another use.
        """
        if name not in self.columns:
            raise DataError(f"{self.asset} has no column {name!r}.", f"Use one of {self._column_names}: {flag} COLUMN.")
        if name in text:
            raise DataError(
                f"{name!r} is already the column of the text or of the label.", f"Use another column: {flag} COLUMN."
            )
        return name

    def text_columns(self, names: str) -> tuple[str, ...]:
        """Returns the column of the text, or the two columns of a pair `FIRST,SECOND`, that the user chose.

        Raises:
            DataError: a column does not exist, or there are more than two.
        """
        if names in self.columns:
            return (names,)
        columns = tuple(name.strip() for name in names.split(","))
        if len(columns) > 2 or len(set(columns)) < len(columns):
            raise DataError(f"{names!r} is not one column or a pair.", "Use --text COLUMN or --text FIRST,SECOND.")
        return tuple(self.column(name, "--text") for name in columns)

    def values(self, column: str) -> frozenset[str]:
        """Returns the different values of a column, as texts."""
        return frozenset(as_text(row.get(column)) for _, row in self.rows)

    def check_columns(self, columns: Iterable[str], train: str) -> None:
        """Checks that the file has the columns that `train` has.

        Raises:
            DataError: a column is missing.
        """
        for name in columns:
            if name not in self.columns:
                raise DataError(
                    f"{self.asset} has no column {name!r}, which is used in {train}.",
                    f"Rename the column; it has {self._column_names}.",
                )

    def guess_text(self, others: Collection[str]) -> str | None:
        """Returns the column of the text: the one with a usual name, or the only plausible one; else None.

        A file whose only texts are the two columns of a pair has both, as `FIRST,SECOND`.

        Args:
            others: Columns with another use.
        """
        columns = [item for item in self.columns if item not in others and self._has_strings(item)]
        for names in PAIR_NAMES:
            pair = [item for name in names for item in columns if item.casefold() == name]
            others = [item for item in columns if item not in pair and item.casefold() in TEXT_NAMES]
            if len(pair) == 2 and not others:
                return ",".join(pair)
        return self._guess(TEXT_NAMES, [item for item in columns if self._may_be_text(item)])

    def guess_label(self, others: Collection[str]) -> str | None:
        """Returns the column of the label: the one with a usual name, or the only plausible one; else None.

        Args:
            others: Columns with another use.
        """
        columns = [item for item in self.columns if item not in others]
        by_name = [item for name in LABEL_NAMES for item in columns if item.casefold() == name]
        if by_name:
            return by_name[0]
        return self._guess((), [item for item in columns if self._may_be_label(item)])

    def cannot_infer_error(self, content: str, flag: str) -> DataError:
        """Returns the error for a column that cannot be inferred."""
        return DataError(
            f"cannot infer the {content} column of {self.asset} from {self._column_names}.",
            f"Set {flag} COLUMN.",
        )

    def merged_spellings(self, column: str) -> dict[str, str]:
        """Returns key -> most frequent spelling of each label in a column that has several; see `spelling_key`."""
        counts = Counter(label for _, _, label in self._label_of_rows(column) if label)
        return {key: labels[0] for key, labels in spelling_variants(counts).items()}

    def labels(self, column: str, merged: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Returns the labels in a column, sorted; numbers as numbers.

        Args:
            column: The column.
            merged: Key -> label of spellings that are one label; see `merged_spellings`.

        Raises:
            DataError: there are fewer than two, or too many or too long values for labels.
        """
        labels = self._sorted_labels(column, merged)
        if len(labels) < 2:
            only = f"only the label {labels[0]!r}" if labels else "no label"
            raise DataError(
                f"the column {column!r} of {self.asset} has {only}, but a task needs two or more.",
                "Use another column: --label COLUMN.",
            )
        longest = max(map(len, labels))
        if len(labels) > MAX_LABELS or longest > MAX_LABEL_LENGTH or any("\n" in item for item in labels):
            raise DataError(
                f"the column {column!r} of {self.asset} has {len(labels)} different values in {len(self.rows)} "
                f"rows, the longest with {longest} characters: it looks like text, not labels.",
                f"Use another column: --label COLUMN. The maximum is {MAX_LABELS} labels of one line and "
                f"{MAX_LABEL_LENGTH} characters each.",
            )
        return labels

    def _sorted_labels(self, column: str, merged: Mapping[str, str] | None = None) -> tuple[str, ...]:
        labels = {label for _, _, label in self._label_of_rows(column, merged) if label}
        numeric = all(item.isdecimal() for item in labels)
        return tuple(sorted(labels, key=lambda item: (int(item) if numeric else 0, item)))

    def summarize_texts(self, fields: Mapping[str, str]) -> TextData:
        """Summarizes the texts of the file, without labels.

        Args:
            fields: Field that patterns use -> its column.

        Raises:
            DataError: a row lacks a column, or its text is not text; names the line.
        """
        texts = [item for _, item in self._texts(fields) if item]
        return TextData(
            source=self.source,
            fields=fields,
            num_rows=self.num_rows,
            is_sample=len(self.rows) < self.num_rows,
            num_empty=len(self.rows) - len(texts),
            texts=texts,
        )

    def summarize(
        self,
        fields: Mapping[str, str],
        label: str,
        merged: Mapping[str, str] | None = None,
        conflicts: Conflicts = "drop",
    ) -> LabeledData:
        """Summarizes the labeled texts of the file.

        Args:
            fields: Field that patterns use -> its column.
            label: Column of the label.
            merged: Key -> label of spellings that are one label; see `merged_spellings`.
            conflicts: What becomes of texts with several labels.

        Raises:
            DataError: a row lacks a column, or its text is not text; names the line.
        """
        labels_of_text: dict[str, list[str]] = {}
        unlabeled: Counter[str] = Counter()
        label_map: dict[str, str] = {}
        num_empty, texts, gold = 0, [], []
        for (_, text), (_, raw, name) in zip(self._texts(fields), self._label_of_rows(label, merged), strict=True):
            if not text:
                num_empty += 1
            elif not name:
                unlabeled[raw] += 1
            else:
                labels_of_text.setdefault(text_key(text.values()), []).append(name)
                texts.append(text)
                gold.append(name)
            if name and raw != name:
                label_map[raw] = name
        labels = self._sorted_labels(label, merged)
        ambiguous = {key for key, names in labels_of_text.items() if len(set(names)) > 1}
        counts: Counter[str] = Counter()
        for key, names in labels_of_text.items():
            if key not in ambiguous or conflicts == "first":
                counts[names[0]] += 1
            elif conflicts == "soft":
                counts.update(set(names))
        return LabeledData(
            source=self.source, fields=fields, label=label, labels=labels, label_map=label_map, unlabeled=unlabeled,
            counts={item: counts[item] for item in labels}, num_rows=len(self.rows), num_empty=num_empty, texts=texts,
            gold=gold, num_conflicts=len(ambiguous), num_certain=len(labels_of_text) - len(ambiguous),
        )  # fmt: skip

    def check_labels(self, column: str, train: LabeledData, merged: Mapping[str, str]) -> None:
        """Checks that each row has a label of the train file.

        Raises:
            DataError: a label is missing or unknown; names the line.
        """
        for place, _, label in self._label_of_rows(column, merged):
            if not label:
                raise DataError(f"{place}: {column!r} has no label.", "Add a label, or remove the row.")
            if label not in train.labels:
                raise DataError(
                    f"{place}: no row of {train.source.asset} has the label {label!r}.",
                    f"Add one with {column!r} {label!r}, or remove this row.",
                )

    def _texts(self, fields: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields place and fields of each row. There are no fields if one is empty."""
        for place, row in self.rows:
            values = {field: _text(row, column, place) for field, column in fields.items()}
            yield place, values if all(value.strip() for value in values.values()) else {}

    def _label_of_rows(self, column: str, merged: Mapping[str, str] | None = None) -> Iterator[tuple[str, str, str]]:
        """Yields place, value and label of each row. The label is empty if the row has none."""
        for place, row in self.rows:
            if column not in row:
                raise DataError(
                    f"{place}: column {column!r} is missing.", "Write it in every row, with null for an unknown label."
                )
            value = row[column]
            if isinstance(value, list):
                raise DataError(f"{place}: {column!r} is a list, not one label.", "Keep one label per row.")
            raw = as_text(value)
            label = raw.strip()
            yield place, raw, merged.get(spelling_key(label), label) if merged else label

    def _guess(self, names: Sequence[str], plausible: Sequence[str]) -> str | None:
        by_name = [item for name in names for item in plausible if item.casefold() == name]
        if by_name:
            return by_name[0]
        return plausible[0] if len(plausible) == 1 else None

    def _values(self, column: str) -> list[Any]:
        return [value for _, row in self.rows if (value := row.get(column)) not in (None, "")]

    def _has_strings(self, column: str) -> bool:
        values = self._values(column)
        return bool(values) and all(isinstance(value, str) for value in values)

    def _may_be_text(self, column: str) -> bool:
        values = self._values(column)
        if column.casefold() in TEXT_NAMES:
            return True
        num_words = sum(len(value.split()) for value in values)
        return num_words >= MIN_WORDS * len(values) and 2 * len(set(values)) > len(values)

    def _may_be_label(self, column: str) -> bool:
        values = [str(value).strip() for value in self._values(column)]
        distinct = set(values)
        return 2 <= len(distinct) <= min(MAX_LABELS, len(values) // 2) and max(map(len, distinct)) <= MAX_LABEL_LENGTH

    @property
    def _column_names(self) -> str:
        return ", ".join(self.columns)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the columns of a row. Keys of nested objects are dotted, as in recipes."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise DataError(f"{place}: column {column!r} is missing.", "Write it in every row.")
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: {column!r} is {type(value).__name__}, not text.", "Quote it, or use another column.")
    return value
