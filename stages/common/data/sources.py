"""Reads rows and examples from a source: CSV, TSV, JSON lines, parquet, text, CoNLL columns, or a hub dataset.

Every error names the file and the line. Rows are streamed, so a file may be larger than memory.
"""

from __future__ import annotations

import csv
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec

from stages.common.assets.cache import resolve
from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.common.examples import Example, Row

PARQUET_ROWS = 1024
"""Rows of a parquet file that are in memory at a time."""


def read_examples(source: Source, labels: Sequence[str] | None, *, prefix: str = "") -> list[Example]:
    """Reads every example of `source`, in file order.

    Args:
        source: The file and its columns.
        labels: The task's labels. If None, a label column is ignored.
        prefix: First part of the examples' uids.

    Raises:
        DataError: a column is missing, a text is empty, a group is neither text nor number, or a label is not in
            `labels` (names file and line); or there are no examples.
    """
    examples = list(stream_examples(source, labels, prefix=prefix))
    if not examples:
        raise DataError(f"{source.asset} has no examples.", "Check filter and limit, or specify another file.")
    return examples


def stream_examples(source: Source, labels: Sequence[str] | None = None, *, prefix: str = "") -> Iterator[Example]:
    """Yields the examples that `read_examples` returns; an empty file is not an error."""
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
        group = None if source.group is None else _group(row, source.group, location)
        num_taken += 1
        yield Example(f"{prefix}{number}", fields, label, group)


def read_rows(source: Source) -> Iterator[Row]:
    """Yields the rows of a file, in order, with their locations.

    Raises:
        DataError: the file does not have its format; names the line.
        AssetError: the file is unreachable.
    """
    if source.asset.startswith("hf:"):
        from stages.common.data.hub import hub_rows  # noqa: PLC0415  (loads datasets, for hf: references only)

        yield from hub_rows(source)
        return
    path = resolve(source.asset)
    file_format = source.format or _format_of(path)
    try:
        yield from _parquet_rows(path) if file_format == "parquet" else _text_rows(path, file_format)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        location = f"{path.name}, line {_first_line_not_utf8(path)}"
        raise DataError(f"{location}: not UTF-8 ({error.reason}).", "Save the file as UTF-8.") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"cannot read {path.name} as {file_format} ({error}).", "Write the file again, or set format."
        ) from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  (a plan reads sources and must not load pyarrow)

    number = 0
    with ParquetFile(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", row


def _text_rows(path: Path, file_format: str) -> Iterator[Row]:
    # utf-8-sig: spreadsheets write a byte order mark before the first column
    with fsspec.open(str(path), "rt", compression="infer", encoding="utf-8-sig", newline="") as file:
        if file_format == "jsonl":
            yield from _json_rows(file, path.name)
        elif file_format == "txt":
            for number, line in enumerate(file, 1):
                yield f"{path.name}, line {number}", {"text": line.rstrip("\r\n")}
        elif file_format == "conll":
            yield from _conll_rows(file, path.name)
        else:
            yield from _table_rows(file, path.name, file_format)


def _conll_rows(file: Iterable[str], name: str) -> Iterator[Row]:
    """Yields {"words": [...], "labels": [...]} from CoNLL columns: one word per line with its label in the last column,
    and an empty line after each text.
    """
    words: list[str] = []
    labels: list[str] = []
    start = 1
    for number, line in enumerate(chain(file, [""]), 1):
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            if len(parts) == 1:
                raise DataError(
                    f"{name}, line {number}: a word without a label.", "Write both, for example: Paris B-LOC."
                )
            start = start if words else number
            words.append(parts[0])
            labels.append(parts[-1])
        elif words:
            yield f"{name}, line {start}", {"words": words, "labels": labels}
            words, labels = [], []


def _first_line_not_utf8(path: Path) -> int:
    with fsspec.open(str(path), "rb", compression="infer") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _format_of(path: Path) -> str:
    formats = {
        ".csv": "csv",
        ".tsv": "tsv",
        ".tab": "tab",
        ".jsonl": "jsonl",
        ".parquet": "parquet",
        ".txt": "txt",
        ".conll": "conll",
        ".bio": "conll",
    }
    for suffix in reversed(path.suffixes):
        if suffix in formats:
            return formats[suffix]
    raise DataError(
        f"cannot infer the format of {path.name} from its ending.",
        f"Set format to one of {sorted(set(formats.values()))}.",
    )


def _json_rows(file: Iterable[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        location = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{location}: not JSON ({error.msg} at column {error.colno}).", "Fix the line.") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{location}: not a JSON object.", 'Write one object per line: {"text": "...", "label": "..."}.'
            )
        yield location, row


def _table_rows(file: Iterator[str], name: str, file_format: str) -> Iterator[Row]:
    """Yields the rows of CSV and TSV files with a header line.

    `tab` is the format of Orange, whose second and third lines are types and roles.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # In TSV files of NLP data sets a quotation mark is an ordinary character.
    if file_format == "tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, delimiter="," if file_format == "csv" else "\t")
    header = next(reader, None)
    if not header:
        raise DataError(f"{name} is empty.", "Write a header line with the names of the columns.")
    if file_format == "tab":
        next(reader, None)
        next(reader, None)
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {start}: {error}.", "Fix the quoting of the line.") from error
        if not values or (file_format == "tab" and len(values) < len(header)):
            continue
        if len(values) != len(header):
            raise DataError(
                f"{name}, line {start}: {len(values)} values, but the header has {len(header)} columns.",
                "Quote values that contain the delimiter.",
            )
        yield f"{name}, line {start}", dict(zip(header, values, strict=True))


def filtered_rows(source: Source) -> Iterator[Row]:
    """Yields the rows of a file that match `source.filter`, in order.

    Raises:
        DataError: a column of the filter is missing; names the line.
    """
    for location, row in read_rows(source):
        values = {name: str(column(row, name, location)) for name in source.filter}
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


def _text(row: Mapping[str, Any], name: str, location: str) -> str:
    value = column(row, name, location)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{location}: {name!r} is {type(value).__name__}, not text.", "Put it in quotes.")
    return value


def _group(row: Mapping[str, Any], name: str, location: str) -> str:
    value = column(row, name, location)
    if not isinstance(value, str | int | float):
        inner = next(iter(value), None) if isinstance(value, Mapping) else None
        raise DataError(
            f"{location}: the group {name!r} is {type(value).__name__}, not a text or number.",
            f"Specify a value in it: group: {name}.{inner}." if inner else "Fill it in, or specify another column.",
        )
    return str(value)


def _label(source: Source, row: Mapping[str, Any], labels: Sequence[str], location: str) -> str:
    assert source.label is not None
    value = str(column(row, source.label, location))
    label = source.label_map.get(value, value)
    if label not in labels:
        raise DataError(
            f"{location}: the label {value!r} is not in labels {list(labels)}.",
            f"Add it to labels, map it (label_map: {{{value!r}: ...}}), or exclude such rows with filter.",
        )
    return label
