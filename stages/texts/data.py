"""Labelled and unlabelled texts out of files: CSV, TSV, JSON lines, parquet, CoNLL columns; or out of a hub dataset."""

from __future__ import annotations

import csv
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import fsspec
from pydantic import BaseModel, Field, model_validator

from stages.errors import DataError
from stages.tasks import Example
from stages.texts import assets

Row = tuple[str, Mapping[str, Any]]
"""A row of a file: its place ("file, line 7") and its values by column."""

PARQUET_ROWS = 1024
"""Rows of a parquet file that are held at a time."""

Format = Literal["csv", "tsv", "tab", "jsonl", "parquet", "txt", "conll"]


class Source(BaseModel, frozen=True, extra="forbid"):
    """A file (or hub dataset) and how its columns become the fields and the label of examples.

    A dotted column leads into nested objects, as `idx.question` into {"idx": {"question": 7}}.
    """

    asset: str = Field(
        description="Reference of the file: pypi:, hf:, a path or a URL.",
        json_schema_extra={"identity": False},
    )
    format: Format | None = Field(None, description="Kind of file; by its ending if not given.")
    split: str = Field("train", description="Split of a hub dataset (hf: only).")
    subset: str | None = Field(None, description="Configuration of a hub dataset, as mnli of glue (hf: only).")
    fields: dict[str, str] = Field({"text": "text"}, description="Field of an example -> column of the file.")
    label: str | None = Field(None, description="Column of the label; none for unlabelled text.")
    label_names: dict[str, str] = Field({}, description="Value in the label column -> label of the task.")
    group: str | None = Field(
        None, description="Column of the question that a row is an answer to, as in MultiRC; for the exact match."
    )
    keep: dict[str, list[str]] = Field({}, description="Column -> values; rows with other values are left out.")
    drop_empty: bool = Field(False, description="Leave out rows with an empty field, where it would be an error.")
    limit: int | None = Field(None, ge=1, description="Rows taken at the most, from the start.")

    @model_validator(mode="after")
    def _names_need_a_label(self) -> Source:
        if self.label_names and not self.label:
            raise ValueError("label_names is given, but label (the column) is not. Name the column: label: category.")
        return self

    @model_validator(mode="after")
    def _files_have_no_subset(self) -> Source:
        if self.subset and not self.asset.startswith("hf:"):
            raise ValueError(
                f"subset is given, but {self.asset} is a file. Take it out, or name a hub dataset: asset: hf:ORG/NAME."
            )
        return self


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
    for number, (place, row) in enumerate(kept_rows(source)):
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
        from stages.texts.hub import hub_rows

        yield from hub_rows(source)
        return
    path = assets.resolve(source.asset)
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


def kept_rows(source: Source) -> Iterator[Row]:
    """The rows of a file whose columns have the values that `source.keep` asks for, in order.

    Raises:
        DataError: a column of `keep` is missing; names the line.
    """
    for place, row in read_rows(source):
        found = {name: str(column(row, name, place)) for name in source.keep}
        if all(found[name] in values for name, values in source.keep.items()):
            yield place, row


def column(row: Mapping[str, Any], name: str, place: str) -> Any:
    """The value of a column; a dotted one leads into nested objects.

    Raises:
        DataError: there is no such column; names `place`.
    """
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(f"{place}: there is no column {name!r}.", f"Take one of: {', '.join(map(str, row))}.")
        value = value[part]
    return value


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = column(row, name, place)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: {name!r} is {type(value).__name__}, not text.", "Put it in quotes.")
    return value


def _group(row: Mapping[str, Any], name: str, place: str) -> str:
    value = column(row, name, place)
    if not isinstance(value, str | int | float):
        inner = next(iter(value), None) if isinstance(value, Mapping) else None
        raise DataError(
            f"{place}: the group {name!r} is {type(value).__name__}, not a text or number.",
            f"Name a value in it: group: {name}.{inner}." if inner else "Fill it in, or name another column.",
        )
    return str(value)


def _label(source: Source, row: Mapping[str, Any], labels: Sequence[str], place: str) -> str:
    assert source.label is not None
    value = str(column(row, source.label, place))
    label = source.label_names.get(value, value)
    if label not in labels:
        raise DataError(
            f"{place}: the label {value!r} is not in labels {list(labels)}.",
            f"Add it to labels, translate it (label_names: {{{value!r}: ...}}), or keep other rows out (keep:).",
        )
    return label


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Writes one JSON object a line: uid, fields, label, group."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            row = {"uid": example.uid, "fields": dict(example.fields), "label": example.label, "group": example.group}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def load_examples(path: Path) -> list[Example]:
    """Reads what `write_examples` wrote."""
    with path.open(encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        return [Example(row["uid"], row["fields"], row["label"], row.get("group")) for row in rows]
