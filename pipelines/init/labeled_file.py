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
"""What columns of texts are called, the likeliest first."""
LABEL_NAMES = (
    "label", "labels", "category", "class", "topic", "sentiment", "intent", "target", "tag", "type", "rating", "stars",
    "y",
)  # fmt: skip
MAX_LABELS = 50
MIN_TEXTS = 4
"""Distinct texts a label: two to learn from, and some for the pile and the test set."""
LONGEST_LABEL = 60
SHORTEST_TEXT = 3
"""Words that a text has on average; where fewer stand, it may be a name or a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabeledData:
    """What a recipe says about a file. `fields`: field -> column; `raw`: value in the file -> label, where the two
    differ (blanks around it); `counts`: distinct texts a label; `unlabelled`: values that stand for no label, and how
    often; `texts`: the labelled ones.
    """

    asset: str
    fields: Mapping[str, str]
    label: str
    labels: tuple[str, ...]
    raw: Mapping[str, str]
    counts: Mapping[str, int]
    unlabeled: Mapping[str, int]
    num_empty: int
    texts: Sequence[Mapping[str, str]]

    @property
    def total(self) -> int:
        """Distinct labelled texts."""
        return sum(self.counts.values())

    @property
    def num_unlabeled(self) -> int:
        """Rows without a label."""
        return sum(self.unlabeled.values())


class LabeledFile:
    """The rows of a file of labelled texts."""

    def __init__(self, asset: str) -> None:
        """Reads the file.

        Raises:
            InputError: it is not there, empty, or damaged; names the line.
        """
        self.asset = asset
        try:
            self.rows = [(place, dict(_flat(row))) for place, row in read_rows(Source(asset=asset))]
        except DataError as error:
            if not error.remedy.startswith("Set format"):
                raise
            raise DataError(error.problem, "Rename it: NAME.csv, .tsv, .jsonl or .parquet.") from error
        if not self.rows:
            raise DataError(f"{asset} holds no row.", "Write a row for each labelled text.")
        self.columns = tuple(dict.fromkeys(column for _, row in self.rows for column in row))

    def column(self, name: str, flag: str, taken: str | None = None) -> str:
        """A column that a person named.

        Raises:
            DataError: there is none of this name, or it is that of the text already.
        """
        if name not in self.columns:
            raise DataError(f"{self.asset} has no column {name!r}.", f"Name one of {self._named}: {flag} COLUMN.")
        if name == taken:
            raise DataError(f"{name!r} is the column of the text.", f"Name another one: {flag} COLUMN.")
        return name

    def guess_text(self, label: str | None) -> str | None:
        """The column of the texts: by its name, or the only one that may be it; else None."""
        return self._guess(TEXT_NAMES, [item for item in self.columns if item != label and self._may_be_text(item)])

    def guess_label(self, text: str | None) -> str | None:
        """The column of the labels: by its name, or the only one that may be it; else None."""
        others = [item for item in self.columns if item != text]
        by_name = [item for name in LABEL_NAMES for item in others if item.casefold() == name]
        if by_name:
            return by_name[0]
        return self._guess((), [item for item in others if self._may_be_label(item)])

    def cannot_infer_error(self, what: str, flag: str) -> DataError:
        """The error where a column cannot be guessed."""
        return DataError(
            f"which column of {self.asset} holds the {what} cannot be told; they are {self._named}.",
            f"Name it: {flag} COLUMN.",
        )

    def labels(self, column: str) -> tuple[str, ...]:
        """The labels in a column, sorted; numbers as numbers.

        Raises:
            DataError: fewer than two, or so many that it must be something else.
        """
        found = {label for _, _, label in self._label_of_rows(column) if label}
        if len(found) < 2:
            only = f"one label only, {next(iter(found))!r}" if found else "no label"
            raise DataError(
                f"the column {column!r} of {self.asset} has {only}; a task needs two or more.",
                "Name another column: --label COLUMN.",
            )
        if len(found) > MAX_LABELS or max(map(len, found)) > LONGEST_LABEL or any("\n" in item for item in found):
            raise DataError(
                f"the column {column!r} of {self.asset} has {len(found)} different values in {len(self.rows)} rows, "
                f"the longest of {max(map(len, found))} characters: it looks like text, not labels.",
                f"Name another column: --label COLUMN. {MAX_LABELS} labels of a line each are the most here.",
            )
        numeric = all(item.isdecimal() for item in found)
        return tuple(sorted(found, key=lambda item: (int(item) if numeric else 0, item)))

    def summarize(self, fields: Mapping[str, str], label: str) -> LabeledData:
        """What the file holds.

        Args:
            fields: Field that patterns take -> its column.
            label: Column of the label.

        Raises:
            DataError: a row lacks a column, or its text is none; names the line.
        """
        labels = self.labels(label)
        seen: dict[tuple[str, ...], str] = {}
        unlabelled: Counter[str] = Counter()
        raw_names: dict[str, str] = {}
        num_empty, texts = 0, []
        for (place, row), (_, raw, name) in zip(self.rows, self._label_of_rows(label), strict=True):
            values = [_text(row, column, place) for column in fields.values()]
            if not all(value.strip() for value in values):
                num_empty += 1
            elif not name:
                unlabelled[raw] += 1
            else:
                # as the stage that draws the sets compares: by words, in any case
                seen.setdefault(tuple(" ".join(value.casefold().split()) for value in values), name)
                texts.append(dict(zip(fields, values, strict=True)))
            if name and raw != name:
                raw_names[raw] = name
        counts = Counter(seen.values())
        return LabeledData(
            asset=self.asset, fields=fields, label=label, labels=labels, raw=raw_names, unlabeled=unlabelled,
            counts={item: counts[item] for item in labels}, num_empty=num_empty, texts=texts,
        )  # fmt: skip

    def _label_of_rows(self, column: str) -> Iterator[tuple[str, str, str]]:
        """Place, value and label of each row; an empty label where there is none."""
        for place, row in self.rows:
            if column not in row:
                raise DataError(
                    f"{place}: there is no column {column!r}.", "Write it in every row, null where it is not known."
                )
            value = row[column]
            if isinstance(value, list):
                raise DataError(f"{place}: {column!r} is a list, not one label.", "Keep one label a row.")
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
        return num_words >= SHORTEST_TEXT * len(values) and 2 * len(set(values)) > len(values)

    def _may_be_label(self, column: str) -> bool:
        values = [str(value).strip() for value in self._values(column)]
        found = set(values)
        return 2 <= len(found) <= min(MAX_LABELS, len(values) // 2) and max(map(len, found)) <= LONGEST_LABEL

    @property
    def _named(self) -> str:
        return ", ".join(self.columns)


def check_counts(found: LabeledData, shots: int | None) -> None:
    """Refuses a file with too few texts of some label.

    Args:
        found: The file.
        shots: Labelled examples a class, if a person said it.

    Raises:
        DataError: names the labels.
    """
    need = MIN_TEXTS if shots is None else shots + 1
    few = [f"{label!r} has {count}" for label, count in found.counts.items() if count < need]
    if few:
        lower = ", lower --shots" if shots is not None and shots >= MIN_TEXTS else ""
        raise DataError(
            f"{found.asset} has too few different texts of some labels: {', '.join(few)}; {need} are the least.",
            f"Add rows{lower}, or take the rows of these labels out.",
        )


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The columns of a row; those of nested objects by their dotted names, as recipes write them."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise DataError(f"{place}: there is no column {column!r}.", "Write it in every row.")
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{place}: {column!r} is {type(value).__name__}, not text.", "Put it in quotes, or name another column."
        )
    return value
