"""Reads examples from a source: takes fields, labels, ids and groups from the columns of its rows.

Every error names the file and the line. Examples are streamed, so a file may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from stages.common.data.config import Source
from stages.common.data.rows import read_rows
from stages.common.errors import DataError
from stages.common.examples import Example, Row


def iter_examples(source: Source, labels: Sequence[str] | None, *, prefix: str = "") -> Iterator[Example]:
    """Yields every example of `source`, in file order.

    Args:
        source: The file and its columns.
        labels: The task's labels. If None, a label column is ignored.
        prefix: First part of the examples' uids.

    Raises:
        DataError: a column is missing, a text is empty, an id, group or question is neither text nor number, or a label
            is not in `labels` (names file and line); or there are no examples.
    """
    is_empty = True
    for item in stream_examples(source, labels, prefix=prefix):
        is_empty = False
        yield item
    if is_empty:
        raise DataError(
            f"{source.asset} has no examples.",
            'Check filter (a missing value is "") and limit, or specify another file.',
        )


def stream_examples(source: Source, labels: Sequence[str] | None = None, *, prefix: str = "") -> Iterator[Example]:
    """Yields the examples that `iter_examples` yields; an empty file is not an error."""
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
        label = None if labels is None or source.label is None else _label(source, row, labels, location)
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
    if label not in labels:
        raise DataError(
            f"{location}: the label {value!r} is not in labels {list(labels)}.",
            f"Add it to labels, map it (label_map: {{{value!r}: ...}}), or exclude such rows with filter.",
        )
    return label
