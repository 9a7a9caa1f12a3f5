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
"""Rows of a parquet file that are held at a time."""


def read_examples(source: Source, labels: Sequence[str] | None, *, prefix: str = "") -> list[Example]:
    """Reads every example of `source`, in file order.

    Args:
        source: The file and its columns.
        labels: The task's labels; None reads texts alone and ignores a label column.
        prefix: Start of the examples' `uid`s.

    Raises:
        DataError: a column is missing, a text is empty, a group is neither text nor number, or a label is not in
            `labels`; names the file and line.
    """
    examples = list(stream_examples(source, labels, prefix=prefix))
    if not examples:
        raise DataError(f"{source.asset} holds no example.", "Check keep: and limit:, or name another file.")
    return examples


def stream_examples(source: Source, labels: Sequence[str] | None = None, *, prefix: str = "") -> Iterator[Example]:
    """What `read_examples` reads, one by one; a file without any is no error."""
    num_taken = 0
    for number, (place, row) in enumerate(filtered_rows(source)):
        if source.limit is not None and num_taken >= source.limit:
            return
        fields = {name: _text(row, where, place) for name, where in source.fields.items()}
        empty = [name for name, text in fields.items() if not text.strip()]
        if empty and source.drop_empty:
            continue
        if empty:
            raise DataError(
                f"{place}: the field {empty[0]!r} is empty.",
                "Fill it in, or leave such rows out with drop_empty: true.",
            )
        label = None if labels is None or source.label is None else _label(source, row, labels, place)
        group = None if source.group is None else _group(row, source.group, place)
        num_taken += 1
        yield Example(f"{prefix}{number}", fields, label, group)


def columns(source: Source) -> tuple[str, ...]:
    """The column names of a file: those of its first row."""
    for _, row in read_rows(source):
        return tuple(row)
    return ()


def read_rows(source: Source) -> Iterator[Row]:
    """The rows of a file, in order, with their places.

    Raises:
        DataError: the file is not of its format; names the line.
        AssetError: the file cannot be reached.
    """
    if source.asset.startswith("hf:"):
        from stages.common.data.hub import hub_rows

        yield from hub_rows(source)
        return
    path = resolve(source.asset)
    kind = source.format or _format_of(path)
    try:
        yield from _parquet_rows(path) if kind == "parquet" else _text_rows(path, kind)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        place = f"{path.name}, line {_first_line_not_utf8(path)}"
        raise DataError(f"{place}: not UTF-8 ({error.reason}).", "Save the file as UTF-8.") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path.name} cannot be read as {kind} ({error}).", "Write the file again, or correct its ending."
        ) from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    number = 0
    with ParquetFile(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", row


def _text_rows(path: Path, kind: str) -> Iterator[Row]:
    # utf-8-sig: spreadsheets put a byte order mark before the first column
    with fsspec.open(str(path), "rt", compression="infer", encoding="utf-8-sig", newline="") as file:
        if kind == "jsonl":
            yield from _json_rows(file, path.name)
        elif kind == "txt":
            for number, line in enumerate(file, 1):
                yield f"{path.name}, line {number}", {"text": line.rstrip("\r\n")}
        elif kind == "conll":
            yield from _conll_rows(file, path.name)
        else:
            yield from _table_rows(file, path.name, kind)


def _conll_rows(file: Iterable[str], name: str) -> Iterator[Row]:
    """CoNLL's columns: a word a line with its label last, an empty line behind each text: {"words": [...], "labels":
    [...]}.
    """
    words: list[str] = []
    labels: list[str] = []
    start = 1
    for number, line in enumerate(chain(file, [""]), 1):
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            if len(parts) == 1:
                raise DataError(f"{name}, line {number}: a word without a label.", "Write both: Paris B-LOC.")
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
    known = {
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
        if suffix in known:
            return known[suffix]
    raise DataError(
        f"{path.name} has no ending that tells its format.",
        f"Set format: to one of {sorted(known.values())}.",
    )


def _json_rows(file: Iterable[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno}).", "Mend the line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}: not a JSON object.", 'Write one object a line: {"text": "...", "label": "..."}.')
        yield place, row


def _table_rows(file: Iterator[str], name: str, kind: str) -> Iterator[Row]:
    """CSV and TSV with a header line; `tab` is Orange's format, whose second and third lines are types and roles."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # TSV as the field's data sets have it: a quotation mark is a character like any other
    if kind == "tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, delimiter="," if kind == "csv" else "\t")
    header = next(reader, None)
    if not header:
        raise DataError(f"{name} is empty.", "Write a header line with the names of the columns.")
    if kind == "tab":
        next(reader, None)
        next(reader, None)
    while True:
        start = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {start}: {error}.", "Mend the quoting of the line.") from error
        if not values or (kind == "tab" and len(values) < len(header)):
            continue
        if len(values) != len(header):
            raise DataError(
                f"{name}, line {start}: {len(values)} values, but the header has {len(header)} columns.",
                "Quote values that hold the delimiter.",
            )
        yield f"{name}, line {start}", dict(zip(header, values, strict=True))


def filtered_rows(source: Source) -> Iterator[Row]:
    """The rows of a file whose columns have the values that `source.keep` asks for, in order.

    Raises:
        DataError: a column of `keep` is missing; names the line.
    """
    for place, row in read_rows(source):
        found = {name: str(column(row, name, place)) for name in source.filter}
        if all(found[name] in values for name, values in source.filter.items()):
            yield place, row


def column(row: Mapping[str, Any], name: str, location: str) -> Any:
    """The value of a column; a dotted one leads into nested objects.

    Raises:
        DataError: there is no such column; names `location`.
    """
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(f"{location}: there is no column {name!r}.", f"Take one of: {', '.join(map(str, row))}.")
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
            f"Name a value in it: group: {name}.{inner}." if inner else "Fill it in, or name another column.",
        )
    return str(value)


def _label(source: Source, row: Mapping[str, Any], labels: Sequence[str], location: str) -> str:
    assert source.label is not None
    value = str(column(row, source.label, location))
    label = source.label_map.get(value, value)
    if label not in labels:
        raise DataError(
            f"{location}: the label {value!r} is not in labels {list(labels)}.",
            f"Add it to labels, translate it (label_names: {{{value!r}: ...}}), or keep other rows out (keep:).",
        )
    return label
