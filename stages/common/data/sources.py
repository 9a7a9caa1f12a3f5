"""Reads examples from a source: takes fields, labels, ids and groups from the columns of its rows.

Every error names the file and the line. Examples are streamed, so a file may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from stages.common.config import MULTI_LABEL, SINGLE_LABEL, ProblemType
from stages.common.data.config import Source
from stages.common.data.rows import read_rows
from stages.common.errors import DataError
from stages.common.examples import Example, Row


def iter_examples(
    source: Source,
    labels: Sequence[str] | None,
    *,
    prefix: str = "",
    problem_type: ProblemType = SINGLE_LABEL,
) -> Iterator[Example]:
    """Yields every example of `source`, in file order.

    Args:
        source: The file and its columns.
        labels: The task's labels. If None, a label column is ignored.
        prefix: First part of the examples' uids.
        problem_type: One label per example, or any number.

    Raises:
        DataError: a column is missing, a text is empty, an id, group or question is neither text nor number, or a label
            is not in `labels` (names file and line); or there are no examples.
    """
    is_empty = True
    for item in stream_examples(source, labels, prefix=prefix, problem_type=problem_type):
        is_empty = False
        yield item
    if is_empty:
        raise DataError(
            f"{source.asset} has no examples.",
            'Check filter (a missing value is "") and limit, or specify another file.',
        )


def stream_examples(
    source: Source,
    labels: Sequence[str] | None = None,
    *,
    prefix: str = "",
    problem_type: ProblemType = SINGLE_LABEL,
) -> Iterator[Example]:
    """Yields the examples that `iter_examples` yields; an empty file is not an error."""
    read_label = _labels if problem_type == MULTI_LABEL else _label
    num_taken = 0
    for number, (location, row) in enumerate(filtered_rows(source)):
        if source.limit is not None and num_taken >= source.limit:
            return
        fields = {name: _text(row, column_name, location) for name, column_name in source.fields.items()}
        empty = [name for name, text in fields.items() if not text.strip()]
        if empty and source.drop_empty:
            continue
        if empty:
            raise DataError(
                f"{location}: the field {empty[0]!r} is empty.",
                "Fill it in, or set drop_empty: true to skip such rows.",
            )
        label = None if labels is None or source.label is None else read_label(source, row, labels, location)
        num_taken += 1
        yield Example(
            uid=f"{prefix}{number}" if source.id is None else _key(row, "id", source.id, location),
            fields=fields,
            label=label,
            question=None if source.question is None else _key(row, "question", source.question, location),
            group=None if source.group is None else _key(row, "group", source.group, location) or None,
        )


def filtered_rows(source: Source) -> Iterator[Row]:
    """Yields the rows of a file that match `source.filter`, in order.

    Raises:
        DataError: a column of the filter is missing; names the line.
    """
    for location, row in read_rows(source):
        values = {name: as_text(column(row, name, location)) for name in source.filter}
        if all(values[name] in accepted for name, accepted in source.filter.items()):
            yield location, row


def column(row: Mapping[str, Any], name: str, location: str) -> Any:
    """Returns the value of a column; a dotted name leads into nested objects.

    Raises:
        DataError: the column does not exist; names `location`.
    """
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(f"{location}: there is no column {name!r}.", f"Use one of: {', '.join(map(str, row))}.")
        value = value[part]
    return value


def as_text(value: Any) -> str:
    """Returns a value of a column as it is written in a recipe. A missing value (null, NaN) is empty."""
    return "" if value is None or value != value else str(value)


def label_values(value: Any, separator: str | None, location: str, name: str) -> list[Any]:
    """Returns the labels in a cell of a multi-label column: of a list, or of a text with a separator.

    Args:
        value: The cell. An empty text with a separator has no labels; a missing list is an error.
        separator: Text between the labels; None: the column has lists.
        location: The place of the row.
        name: The column.

    Raises:
        DataError: the cell is not a list, and there is no separator.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if separator is None:
        problem = "has no labels" if value is None or not as_text(value).strip() else "is not a list of labels"
        raise DataError(
            f"{location}: {name!r} {problem}.",
            'Write a list, such as ["sports", "money"], or [] for a text with none of the labels.',
        )
    return [label for part in as_text(value).split(separator) if (label := part.strip())]


def _text(row: Mapping[str, Any], name: str, location: str) -> str:
    value = column(row, name, location)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{location}: {name!r} is {type(value).__name__}, not text.", "Put it in quotes.")
    return value


def _key(row: Mapping[str, Any], role: Literal["id", "group", "question"], name: str, location: str) -> str:
    """Returns the value of a column that identifies a row, or what rows have in common. Only a group may be empty.

    Args:
        row: The row.
        role: What the source uses the column for.
        name: The column.
        location: The place of the row.
    """
    value = column(row, name, location)
    if isinstance(value, Mapping | list):
        inner = next(iter(value), None) if isinstance(value, Mapping) else None
        raise DataError(
            f"{location}: the {role} {name!r} is {type(value).__name__}, not a text or number.",
            f"Specify a value in it: {role}: {name}.{inner}." if inner else "Specify another column.",
        )
    text = as_text(value)
    if not text and role != "group":
        raise DataError(f"{location}: the {role} {name!r} is empty.", "Fill it in, or specify another column.")
    return text


def _label(source: Source, row: Mapping[str, Any], labels: Sequence[str], location: str) -> str:
    assert source.label is not None
    value = as_text(column(row, source.label, location))
    label = source.label_map.get(value, value)
    if not value.strip() and label not in labels:
        raise DataError(
            f"{location}: {source.label!r} has no label.",
            f"Fill it in, or skip such rows: filter: {{{source.label}: [...]}}.",
        )
    _check_known(label, value, labels, location)
    return label


def _labels(source: Source, row: Mapping[str, Any], labels: Sequence[str], location: str) -> tuple[str, ...]:
    """Returns the labels of a row, in the order of `labels`."""
    assert source.label is not None
    found = set()
    for item in label_values(column(row, source.label, location), source.label_separator, location, source.label):
        value = as_text(item)
        label = source.label_map.get(value, value)
        _check_known(label, value, labels, location)
        found.add(label)
    return tuple(label for label in labels if label in found)


def _check_known(label: str, value: str, labels: Sequence[str], location: str) -> None:
    if label not in labels:
        raise DataError(
            f"{location}: the label {value!r} is not in labels {list(labels)}.",
            f"Add it to labels, map it (label_map: {{{value!r}: ...}}), or exclude such rows with filter.",
        )
