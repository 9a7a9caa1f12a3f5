"""Reads a file of labeled texts for a new recipe: its columns, its labels, and the number of texts per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.common.data.config import Source
from stages.common.data.sources import read_rows
from stages.common.errors import DataError

TEXT_NAMES = (
    "text", "message", "sentence", "review", "content", "body", "comment", "description", "document", "question",
    "query", "utterance", "tweet", "post", "abstract", "summary", "headline", "title",
)  # fmt: skip
"""Usual names of text columns, the most likely first."""
LABEL_NAMES = (
    "label", "labels", "category", "class", "topic", "sentiment", "intent", "target", "tag", "type", "rating", "stars",
    "y",
)  # fmt: skip
MAX_LABELS = 50
MIN_TEXTS = 4
"""Minimum number of different texts per label: two to train with, and some for the other splits."""
MAX_LABEL_LENGTH = 60
MIN_WORDS = 3
"""Minimum mean number of words in a text column. Shorter values may be names or keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabeledData:
    """The contents of a file that a recipe describes."""

    asset: str
    fields: Mapping[str, str]
    """Field -> column."""
    label: str
    """Column of the label."""
    labels: tuple[str, ...]
    label_map: Mapping[str, str]
    """Value in the file -> label, for values with spaces around the label."""
    counts: Mapping[str, int]
    """Label -> number of different texts."""
    unlabeled: Mapping[str, int]
    """Value of a row without a label -> number of rows."""
    num_empty: int
    """Rows without text."""
    texts: Sequence[Mapping[str, str]]
    """The fields of each labeled row."""

    @property
    def total(self) -> int:
        """Number of different labeled texts."""
        return sum(self.counts.values())

    @property
    def num_unlabeled(self) -> int:
        """Number of rows without a label."""
        return sum(self.unlabeled.values())


class LabeledFile:
    """The rows of a file of labeled texts."""

    def __init__(self, asset: str) -> None:
        """Reads the file.

        Raises:
            InputError: the file is missing, empty or damaged; names the line.
        """
        self.asset = asset
        try:
            self.rows = [(place, dict(_flat(row))) for place, row in read_rows(Source(asset=asset))]
        except DataError as error:
            if not error.remedy.startswith("Set format"):
                raise
            raise DataError(error.problem, "Rename it: NAME.csv, .tsv, .jsonl or .parquet.") from error
        if not self.rows:
            raise DataError(f"{asset} has no rows.", "Write a row per labeled text.")
        self.columns = tuple(dict.fromkeys(column for _, row in self.rows for column in row))

    def column(self, name: str, flag: str, text_column: str | None = None) -> str:
        """Returns the name of a column that the user chose with a flag.

        Raises:
            DataError: the column does not exist, or is the column of the text.
        """
        if name not in self.columns:
            raise DataError(f"{self.asset} has no column {name!r}.", f"Use one of {self._column_names}: {flag} COLUMN.")
        if name == text_column:
            raise DataError(f"{name!r} is the column of the text.", f"Use another column: {flag} COLUMN.")
        return name

    def guess_text(self, label: str | None) -> str | None:
        """Returns the column of the text: the one with a usual name, or the only plausible one; else None."""
        return self._guess(TEXT_NAMES, [item for item in self.columns if item != label and self._may_be_text(item)])

    def guess_label(self, text: str | None) -> str | None:
        """Returns the column of the label: the one with a usual name, or the only plausible one; else None."""
        others = [item for item in self.columns if item != text]
        by_name = [item for name in LABEL_NAMES for item in others if item.casefold() == name]
        if by_name:
            return by_name[0]
        return self._guess((), [item for item in others if self._may_be_label(item)])

    def cannot_infer_error(self, content: str, flag: str) -> DataError:
        """Returns the error for a column that cannot be inferred."""
        return DataError(
            f"cannot infer the {content} column of {self.asset} from {self._column_names}.",
            f"Set {flag} COLUMN.",
        )

    def labels(self, column: str) -> tuple[str, ...]:
        """Returns the labels in a column, sorted; numbers as numbers.

        Raises:
            DataError: there are fewer than two, or too many or too long values for labels.
        """
        labels = {label for _, _, label in self._label_of_rows(column) if label}
        if len(labels) < 2:
            only = f"only the label {next(iter(labels))!r}" if labels else "no label"
            raise DataError(
                f"the column {column!r} of {self.asset} has {only}, but a task needs two or more.",
                "Use another column: --label COLUMN.",
            )
        longest = max(map(len, labels))
        if len(labels) > MAX_LABELS or longest > MAX_LABEL_LENGTH or any("\n" in item for item in labels):
            raise DataError(
                f"the column {column!r} of {self.asset} has {len(labels)} different values in {len(self.rows)} "
                f"rows, the longest with {longest} characters: it looks like text, not labels.",
                f"Use another column: --label COLUMN. The maximum is {MAX_LABELS} labels of one line each.",
            )
        numeric = all(item.isdecimal() for item in labels)
        return tuple(sorted(labels, key=lambda item: (int(item) if numeric else 0, item)))

    def summarize(self, fields: Mapping[str, str], label: str) -> LabeledData:
        """Summarizes the file.

        Args:
            fields: Field that patterns use -> its column.
            label: Column of the label.

        Raises:
            DataError: a row lacks a column, or its text is not text; names the line.
        """
        labels = self.labels(label)
        label_of_text: dict[tuple[str, ...], str] = {}
        unlabeled: Counter[str] = Counter()
        label_map: dict[str, str] = {}
        num_empty, texts = 0, []
        for (place, row), (_, raw, name) in zip(self.rows, self._label_of_rows(label), strict=True):
            values = [_text(row, column, place) for column in fields.values()]
            if not all(value.strip() for value in values):
                num_empty += 1
            elif not name:
                unlabeled[raw] += 1
            else:
                # compared as in stages/splits: by words, without case
                label_of_text.setdefault(tuple(" ".join(value.casefold().split()) for value in values), name)
                texts.append(dict(zip(fields, values, strict=True)))
            if name and raw != name:
                label_map[raw] = name
        counts = Counter(label_of_text.values())
        return LabeledData(
            asset=self.asset, fields=fields, label=label, labels=labels, label_map=label_map, unlabeled=unlabeled,
            counts={item: counts[item] for item in labels}, num_empty=num_empty, texts=texts,
        )  # fmt: skip

    def _label_of_rows(self, column: str) -> Iterator[tuple[str, str, str]]:
        """Yields place, value and label of each row. The label is empty if the row has none."""
        for place, row in self.rows:
            if column not in row:
                raise DataError(
                    f"{place}: column {column!r} is missing.", "Write it in every row, with null for an unknown label."
                )
            value = row[column]
            if isinstance(value, list):
                raise DataError(f"{place}: {column!r} is a list, not one label.", "Keep one label per row.")
            yield place, str(value), "" if value is None else str(value).strip()

    def _guess(self, names: Sequence[str], plausible: Sequence[str]) -> str | None:
        by_name = [item for name in names for item in plausible if item.casefold() == name]
        if by_name:
            return by_name[0]
        return plausible[0] if len(plausible) == 1 else None

    def _values(self, column: str) -> list[Any]:
        return [value for _, row in self.rows if (value := row.get(column)) not in (None, "")]

    def _may_be_text(self, column: str) -> bool:
        values = self._values(column)
        if not values or not all(isinstance(value, str) for value in values):
            return False
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


def check_counts(data: LabeledData, shots: int | None) -> None:
    """Checks that a file has enough texts per label.

    Args:
        data: The file.
        shots: Labeled examples per class, if set.

    Raises:
        DataError: a label has too few texts.
    """
    minimum = MIN_TEXTS if shots is None else shots + 1
    few = [f"{label!r} has {count}" for label, count in data.counts.items() if count < minimum]
    if few:
        lower = ", lower --shots" if shots is not None and shots >= MIN_TEXTS else ""
        raise DataError(
            f"{data.asset} has too few different texts for some labels: {', '.join(few)}; the minimum is {minimum}.",
            f"Add rows{lower}, or remove the rows with these labels.",
        )


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
