"""Reads a file of texts for a new recipe: its columns, its labels, and the number of texts per label."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipelines.init.spellings import spelling_key, spelling_variants
from stages.common.data.config import Source
from stages.common.data.recognition import recognized_source
from stages.common.data.rows import read_rows
from stages.common.data.sampling import reservoir_sample
from stages.common.data.sources import as_text, label_values
from stages.common.data.text_keys import text_key
from stages.common.errors import DataError
from stages.common.examples import Label
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
"""What becomes of texts that occur with different labels: no row is used, or those with the first label, or all."""
SEPARATORS = (";", "|", ",")
"""Characters that may separate the labels of a cell."""
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
    separator: str | None = None
    """Text between the labels of a cell; None: a cell is one label, or a list of labels."""
    gold: Sequence[Label]
    """Label of each of the texts, or its labels."""
    num_conflicts: int
    """Different texts that occur with different labels."""
    num_certain: int
    """Different texts that always have the same label, or the same labels."""
    counts: Mapping[str, int]
    """Label -> number of different texts that are used."""
    unlabeled: Mapping[str, int]
    """Value of a row without a label -> number of rows."""

    has_label_sets: bool = False
    """Whether a text has any number of labels."""

    @property
    def total(self) -> int:
        """Number of different labeled texts. With conflicts: soft, each counts once per label that is used."""
        return self.num_certain if self.has_label_sets else sum(self.counts.values())

    @property
    def num_unlabeled(self) -> int:
        """Number of rows without a label."""
        return sum(self.unlabeled.values())


class RowLabels(NamedTuple):
    """The labels of a row of a file."""

    place: str
    values: tuple[str, ...]
    """As they are in the file."""
    labels: tuple[str, ...] | None
    """None if the label is unknown; empty if the row has none of the labels."""


class LabeledFile:
    """The rows of a file of texts, with or without labels, or a sample of them."""

    def __init__(
        self,
        asset: str,
        on_progress: Callable[[str], None] = lambda _: None,
        *,
        max_rows: int = sys.maxsize,
        limit: int = sys.maxsize,
        separator: str | None = None,
    ) -> None:
        """Reads the file.

        Args:
            asset: Reference of the file.
            on_progress: Called with what is read so far, after every `ROWS_PER_REPORT` rows.
            max_rows: Number of rows to keep. If there are more, they are a random sample.
            limit: Number of rows that the file may have.
            separator: Text between the labels of a cell, if a cell has several.

        Raises:
            InputError: the file is missing, empty, damaged or too large; names the line.
        """
        self.asset = asset
        self.separator = separator
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

    def has_label_sets(self, column: str) -> bool:
        """Returns True if a cell of a column has any number of labels: as a list, or with the separator."""
        return self.separator is not None or any(isinstance(row.get(column), list) for _, row in self.rows)

    def guess_separator(self, column: str) -> str | None:
        """Returns the character that probably separates labels in a column of texts; None if there is none.

        Its parts are fewer than the different values, and each occurs in several values.
        """
        values = {value for _, row in self.rows if isinstance(value := row.get(column), str)}
        for separator in SEPARATORS:
            parts = Counter(part.strip() for value in values for part in value.split(separator))
            if 2 <= len(parts) < len(values) and min(parts.values()) > 1:
                return separator
        return None

    def merged_spellings(self, column: str) -> dict[str, str]:
        """Returns key -> most frequent spelling of each label in a column that has several; see `spelling_key`."""
        counts = Counter(label for row in self._labels_of_rows(column) for label in row.labels or ())
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
            separator = None if self.has_label_sets(column) else self.guess_separator(column)
            hint = f"Set --label-separator '{separator}', or use" if separator else "Use"
            raise DataError(
                f"the column {column!r} of {self.asset} has {len(labels)} different values in {len(self.rows)} "
                f"rows, the longest with {longest} characters: it looks like text, not labels.",
                f"{hint} another column: --label COLUMN. The maximum is {MAX_LABELS} labels of one line and "
                f"{MAX_LABEL_LENGTH} characters each.",
            )
        return labels

    def _sorted_labels(self, column: str, merged: Mapping[str, str] | None = None) -> tuple[str, ...]:
        labels = {label for row in self._labels_of_rows(column, merged) for label in row.labels or ()}
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
            conflicts: What becomes of texts that occur with different labels.

        Raises:
            DataError: a row lacks a column, or its text is not text; names the line.
        """
        labels_of_text: dict[str, list[tuple[str, ...]]] = {}
        unlabeled: Counter[str] = Counter()
        label_map: dict[str, str] = {}
        num_empty, texts = 0, []
        gold: list[Label] = []
        has_label_sets = self.has_label_sets(label)
        for (_, text), row in zip(self._texts(fields), self._labels_of_rows(label, merged), strict=True):
            if not text:
                num_empty += 1
            elif row.labels is None:
                unlabeled[row.values[0]] += 1
            else:
                names = tuple(sorted(set(row.labels)))
                labels_of_text.setdefault(text_key(text.values()), []).append(names)
                texts.append(text)
                gold.append(names if has_label_sets else names[0])
            label_map |= {raw: name for raw, name in zip(row.values, row.labels or (), strict=False) if raw != name}
        labels = self._sorted_labels(label, merged)
        ambiguous = {key for key, of_rows in labels_of_text.items() if len(set(of_rows)) > 1}
        counts: Counter[str] = Counter()
        for key, of_rows in labels_of_text.items():
            if key not in ambiguous or conflicts == "first":
                counts.update(of_rows[0])
            elif conflicts == "soft":
                counts.update({name for names in of_rows for name in names})
        return LabeledData(
            source=self.source, fields=fields, label=label, labels=labels, label_map=label_map, unlabeled=unlabeled,
            separator=self.separator, has_label_sets=has_label_sets,
            counts={item: counts[item] for item in labels}, num_rows=len(self.rows), num_empty=num_empty, texts=texts,
            gold=gold, num_conflicts=len(ambiguous), num_certain=len(labels_of_text) - len(ambiguous),
        )  # fmt: skip

    def check_labels(self, column: str, train: LabeledData, merged: Mapping[str, str]) -> None:
        """Checks that each row has a label of the train file.

        Raises:
            DataError: a label is missing or unknown; names the line.
        """
        for row in self._labels_of_rows(column, merged):
            if row.labels is None:
                raise DataError(f"{row.place}: {column!r} has no label.", "Add a label, or remove the row.")
            for label in row.labels:
                if label not in train.labels:
                    raise DataError(
                        f"{row.place}: no row of {train.source.asset} has the label {label!r}.",
                        f"Add one with {column!r} {label!r}, or remove this row.",
                    )

    def _texts(self, fields: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields place and fields of each row. There are no fields if one is empty."""
        for place, row in self.rows:
            values = {field: _text(row, column, place) for field, column in fields.items()}
            yield place, values if all(value.strip() for value in values.values()) else {}

    def _labels_of_rows(self, column: str, merged: Mapping[str, str] | None = None) -> Iterator[RowLabels]:
        """Yields the labels of each row."""
        has_label_sets = self.has_label_sets(column)
        for place, row in self.rows:
            if column not in row:
                raise DataError(
                    f"{place}: column {column!r} is missing.", "Write it in every row, with null for an unknown label."
                )
            cells = label_values(row[column], self.separator, place, column) if has_label_sets else [row[column]]
            values = tuple(map(as_text, cells))
            stripped = [value.strip() for value in values]
            labels = [merged.get(spelling_key(label), label) if merged else label for label in stripped]
            if has_label_sets and "" in labels:
                raise DataError(f"{place}: a label of {column!r} is empty.", "Remove it from the list.")
            yield RowLabels(place, values, None if labels == [""] else tuple(labels))

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
        cells = [value if isinstance(value, list) else [value] for value in self._values(column)]
        values = [str(value).strip() for cell in cells for value in cell]
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
