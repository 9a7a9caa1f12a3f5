"""Reads the rows of a file for `predict` and `score`: CSV, TSV, JSON lines, a JSON array, parquet or plain lines.

Encoding and delimiter are recognized by the first rows, as `init` does. A row that cannot be read is yielded with its
error, and the next row follows. Only a few rows are in memory at a time; a JSON array is read as a whole.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from stages.common.data.declarations import declared_delimiter, declared_encoding
from stages.common.data.recognition import SAMPLE_ROWS, recognize_delimiter, recognize_encoding
from stages.common.errors import DataError

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "lines"]
ENDINGS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "lines",
}
ROWS_AT_ONCE = 512
"""Rows kept in memory: enough to sort them by length."""
HEAD_BYTES = 2**18
"""First bytes of a file, by which its encoding is recognized."""
MAX_FIELD_CHARACTERS = 16 * 2**20
"""Characters of a value in a table. A quotation mark without its partner would otherwise read the rest of the file."""
_REMEDY_JSON = 'Write one JSON object per line, such as {"text": "some text"}.'


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row: its location (`new.csv:7`), its values by column, and the reason if it cannot be read."""

    location: str
    values: Mapping[str, Any] = field(default_factory=dict)
    error: DataError | None = None


@dataclass(frozen=True, slots=True)
class InputRows:
    """The rows of a file.

    Args:
        format: The format of the file.
        columns: Names of the columns, if they are known before the rows.
        delimiter: Character between the values of a CSV file.
        encoding: Encoding of a text file.
        schema: Schema of a parquet file.
        rows: The rows, which can be read once.
        file: The open file, which must live as long as rows are read.
    """

    format: FileFormat
    rows: Iterator[InputRow]
    columns: tuple[str, ...] | None = None
    delimiter: str = ","
    encoding: str = "utf-8"
    schema: Any = None
    file: Any = None


def format_of(path: Path) -> FileFormat | None:
    """Returns the format that the ending of a file name names, without endings of compressed files."""
    return next((ENDINGS[suffix] for suffix in reversed(path.suffixes) if suffix in ENDINGS), None)


def read_rows(stream: BinaryIO, name: str, file_format: FileFormat | None, plain_field: str | None) -> InputRows:
    """Reads the rows of a file.

    Args:
        stream: The decompressed bytes.
        name: The file, or `-` for standard input.
        file_format: The format. None: the ending of the name decides; for `.txt`, standard input and other endings, the
            rows are JSON lines if the first one is a JSON object, and plain lines otherwise.
        plain_field: The field that a plain line sets; None if the model reads several.

    Raises:
        DataError: the file has another format, or a table has no header or two columns of one name.
    """
    shown = "stdin" if name == "-" else name
    known = file_format or format_of(Path(name))
    if known == "parquet":
        return _parquet_rows(stream, shown)
    head = stream.read(HEAD_BYTES)
    encoding = declared_encoding(head) or recognize_encoding(head)
    # With surrogates instead of bytes that are not UTF-8, only their row is rejected.
    on_error = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    is_table = known in ("csv", "tsv")
    text = io.TextIOWrapper(
        io.BufferedReader(_Rejoined(head, stream)), encoding, on_error, newline="" if is_table else None
    )
    return replace(_text_rows(text, shown, known, file_format, plain_field), encoding=encoding, file=text)


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._parts = (io.BytesIO(head), rest)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for part in self._parts:
            if data := part.read(len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0


def _text_rows(
    text: io.TextIOWrapper,
    name: str,
    known: FileFormat | None,
    file_format: FileFormat | None,
    plain_field: str | None,
) -> InputRows:
    """Returns the rows of a text file. `known`: its format, by its ending or by `file_format`, which the user sets."""
    if known in ("csv", "tsv"):
        return _table_rows(text, name, known)
    first = text.readline()
    lines = chain([first] if first else [], text)
    if known == "jsonl" and first.lstrip().startswith("["):
        return InputRows("jsonl", _array_rows(first + text.read(), name))
    if known == "jsonl" or (file_format is None and first.lstrip().startswith("{")):
        return InputRows("jsonl", (_json_row(line, f"{name}:{number}") for number, line in enumerate(lines, 1)))
    if plain_field is None:
        raise DataError(
            f"{name} has plain lines, but this model reads several values per row.",
            "Use a CSV file or JSON lines.",
        )
    return InputRows(
        "lines", (_plain_row(line, plain_field, f"{name}:{number}") for number, line in enumerate(lines, 1))
    )


def _array_rows(text: str, name: str) -> Iterator[InputRow]:
    """Yields the objects of a JSON array. A file of JSON lines that starts with a list has a bad first row."""
    try:
        items = json.loads(text)
    except (RecursionError, ValueError):
        yield from (_json_row(line, f"{name}:{number}") for number, line in enumerate(text.splitlines(), 1))
        return
    for number, item in enumerate(items, 1):
        location = f"{name}, item {number}"
        if isinstance(item, dict):
            yield InputRow(location, item)
        else:
            yield InputRow(location, {}, DataError("not a JSON object.", _REMEDY_JSON))


def _plain_row(line: str, plain_field: str, location: str) -> InputRow:
    text = line.rstrip("\n")
    if not text.strip():
        return InputRow(location, {}, DataError("the line is blank.", "Write a text, or remove the line."))
    return InputRow(location, {plain_field: text}, _not_utf8(text))


def _json_row(line: str, location: str) -> InputRow:
    if not line.strip():
        return InputRow(location, {}, DataError("the line is blank.", _REMEDY_JSON))
    if (not_utf8 := _not_utf8(line)) is not None:
        return InputRow(location, {}, not_utf8)
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return InputRow(location, {}, DataError(f"not JSON ({error.msg} at column {error.colno}).", _REMEDY_JSON))
    except (RecursionError, ValueError):  # thousands of brackets, or a number with thousands of digits
        return InputRow(location, {}, DataError("JSON with too many levels or digits.", _REMEDY_JSON))
    if not isinstance(row, dict):
        return InputRow(location, {}, DataError("not a JSON object.", _REMEDY_JSON))
    return InputRow(location, row)


def _table_rows(text: io.TextIOWrapper, name: str, file_format: FileFormat) -> InputRows:
    first_lines = list(islice(text, SAMPLE_ROWS))
    declared = declared_delimiter(first_lines[0]) if first_lines else None
    num_skipped = 1 if declared else 0
    delimiter = declared or recognize_delimiter(first_lines)
    lines = chain(first_lines[num_skipped:], text)
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    if file_format == "tsv":  # in TSV files of NLP data sets a quotation mark is an ordinary character
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"{name}: the header cannot be read ({error}).", "Fix its quoting.") from error
    if not header:
        raise DataError(f"{name} is empty.", "Write a header line with the names of the columns.")
    repeated = next((item for item in header if header.count(item) > 1), None)
    if repeated is not None:
        raise DataError(f"{name} has two columns {repeated!r}.", "Rename one of them.")
    rows = _values_rows(reader, header, name, num_skipped)
    return InputRows(file_format, rows, tuple(header), "\t" if file_format == "tsv" else delimiter)


def _values_rows(reader: Any, header: list[str], name: str, num_skipped: int) -> Iterator[InputRow]:
    while True:
        location = f"{name}:{reader.line_num + num_skipped + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield InputRow(location, {}, DataError(f"{error}.", "Fix the quoting of the row."))
            continue
        row = dict(zip(header, values, strict=False))
        if not values:
            yield InputRow(location, {}, DataError("the row is blank.", "Fill it in, or remove it."))
        elif len(values) < len(header):
            missing = len(header) - len(values)
            problem = f"{missing} of {len(header)} values are missing."
            yield InputRow(location, row, DataError(problem, "Add them, or quote line breaks."))
        elif len(values) > len(header):
            problem = f"{len(values)} values, but the header has {len(header)} columns."
            yield InputRow(location, row, DataError(problem, "Quote values that contain the delimiter."))
        else:
            yield InputRow(location, row, _not_utf8(*values))


def _not_utf8(*values: str) -> DataError | None:
    if any("\udc80" <= character <= "\udcff" for value in values if not value.isascii() for character in value):
        return DataError("not UTF-8.", "Save the file as UTF-8.")
    return None


def _parquet_rows(stream: BinaryIO, name: str) -> InputRows:
    from pyarrow import ArrowException  # noqa: PLC0415  (for parquet files only)
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  (for parquet files only)

    if not stream.seekable():
        raise DataError("a parquet file cannot be read from a pipe.", "Set --input to the file.")
    try:
        file = ParquetFile(stream)
    except (ArrowException, OSError) as error:
        raise DataError(f"{name} is not a parquet file ({error}).", "Write it again, or set --format.") from error
    schema = file.schema_arrow
    batches: Iterable[Any] = file.iter_batches(ROWS_AT_ONCE)
    rows = (row for batch in batches for row in batch.to_pylist())
    numbered = (InputRow(f"{name}:{number}", row) for number, row in enumerate(rows, 1))
    return InputRows("parquet", numbered, tuple(schema.names), schema=schema)
