"""Reads the rows of a file: CSV, TSV, JSON, parquet, text, CoNLL columns, a folder of texts, or a hub dataset.

Nothing is guessed here, so a recipe reads the same rows everywhere. The encoding is UTF-8 and the delimiter of CSV a
comma, unless the source sets another, or the file declares one: by a byte order mark, or by Excel's first line `sep=;`.
`recognition.py` guesses both for a new recipe.

Every error names the file and the line. Rows are streamed, so a file may be larger than memory.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec

from stages.common.assets.cache import resolve
from stages.common.data.config import Source
from stages.common.data.declarations import DELIMITERS, MARK_BYTES, declared_delimiter, declared_encoding
from stages.common.errors import DataError
from stages.common.examples import Row

PARQUET_ROWS = 1024
"""Rows of a parquet file that are in memory at a time."""
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tab",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".conll": "conll",
    ".bio": "conll",
}
"""Ending of a file -> its format."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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
    file_format = source.format or format_of(path)
    if source.delimiter and file_format != "csv":
        raise DataError(f"delimiter is set, but {path.name} is {file_format}.", "Remove delimiter, or set format: csv.")
    try:
        if file_format == "folder":
            yield from _folder_rows(path, source.encoding)
        elif file_format == "parquet":
            yield from _parquet_rows(path)
        else:
            yield from _text_rows(path, file_format, source)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise _encoding_error(path, source.encoding, error) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"cannot read {path.name} as {file_format} ({error}).", "Write the file again, or set format."
        ) from error


def format_of(path: Path) -> str:
    """Returns the format of a file by its ending; "folder" for a folder.

    Raises:
        DataError: the ending is unknown.
    """
    if path.is_dir():
        return "folder"
    for suffix in reversed(path.suffixes):
        if suffix in FORMATS:
            return FORMATS[suffix]
    raise DataError(
        f"cannot infer the format of {path.name} from its ending.",
        f"Set format to one of {sorted(set(FORMATS.values()))}.",
    )


def folder_files(path: Path) -> list[Path]:
    """Returns the text files of a folder, in the order of their names.

    Raises:
        DataError: there are none.
    """
    files = sorted(item for item in path.rglob("*.txt") if item.is_file() and item.name[0] != ".")
    if not files:
        raise DataError(f"the folder {path.name} has no text files.", "Write a file per text: LABEL/NAME.txt.")
    return files


@contextmanager
def open_bytes(path: Path) -> Iterator[Any]:
    """Opens a file for reading, and decompresses it if its ending says so: .gz, .bz2, .xz or .zst."""
    if path.suffix == ".zst":
        import pyarrow  # noqa: PLC0415  (a plan reads sources and must not load pyarrow)

        with pyarrow.input_stream(str(path), compression="zstd") as file:
            yield io.BufferedReader(file)
        return
    with fsspec.open(str(path), "rb", compression="infer") as file:
        yield file


def encoding_of_mark(path: Path) -> str | None:
    """Returns the encoding that a byte order mark at the start of a file declares; None if there is no mark."""
    with open_bytes(path) as file:
        return declared_encoding(file.read(MARK_BYTES))


@contextmanager
def open_text(path: Path, encoding: str | None, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """Opens a text file. A byte order mark decides on the encoding; without one it is `encoding`, or UTF-8."""
    encoding = encoding_of_mark(path) or encoding or "utf-8"
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding, errors, newline="") as text:
        yield text


def _encoding_error(path: Path, encoding: str | None, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{path.name}, line {_first_bad_line(path, encoding)}: not {encoding or 'UTF-8'} ({error.reason}).",
        "Save the file as UTF-8, or set its encoding: gb18030.",
    )


def _first_bad_line(path: Path, encoding: str | None) -> int:
    with open_text(path, encoding, "replace") as file:
        return next((number for number, line in enumerate(file, 1) if "\ufffd" in line), 1)


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  (a plan reads sources and must not load pyarrow)

    number = 0
    with ParquetFile(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", row


def _folder_rows(path: Path, encoding: str | None) -> Iterator[Row]:
    """Yields the text of each file of a folder, with the name of its folder as the label; null in the outer one."""
    for file in folder_files(path):
        label = file.parent.relative_to(path).as_posix()
        with open_text(file, encoding) as lines:
            try:
                text = lines.read().replace("\r\n", "\n").rstrip("\n")
            except UnicodeDecodeError as error:
                raise _encoding_error(file, encoding, error) from error
        location = (Path(path.name) / file.relative_to(path)).as_posix()
        yield location, {"text": text, "label": None if label == "." else label}


def _text_rows(path: Path, file_format: str, source: Source) -> Iterator[Row]:
    with open_text(path, source.encoding) as file:
        if file_format == "json":
            yield from _json_items(file, path.name)
        elif file_format == "jsonl":
            yield from _json_rows(enumerate(file, 1), path.name)
        elif file_format == "txt":
            for number, line in enumerate(file, 1):
                yield f"{path.name}, line {number}", {"text": line.rstrip("\r\n")}
        elif file_format == "conll":
            yield from _conll_rows(file, path.name)
        else:
            yield from _table_rows(file, path.name, file_format, source.delimiter)


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


def _json_items(file: io.TextIOWrapper, name: str) -> Iterator[Row]:
    """Yields the objects of an array, which is read as a whole, or else of JSON lines."""
    lines = enumerate(file, 1)
    first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if not first[1].lstrip().startswith("["):
        yield from _json_rows(chain([first], lines), name)
        return
    text = first[1] + file.read()
    for number, item in enumerate(_parse(text, name, first[0]), 1):
        location = f"{name}, item {number}"
        yield location, _checked_row(item, location, text)


def _json_rows(lines: Iterable[tuple[int, str]], name: str) -> Iterator[Row]:
    for number, line in lines:
        if line.strip():
            location = f"{name}, line {number}"
            yield location, _checked_row(_parse(line.rstrip(), name, number), location, line)


def _parse(text: str, name: str, first_line: int) -> Any:
    location = f"{name}, line {first_line}"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        location = f"{name}, line {first_line + error.lineno - 1}"
        raise DataError(f"{location}: not JSON ({error.msg} at column {error.colno}).", "Fix the line.") from error
    except RecursionError as error:
        raise DataError(f"{location}: objects are nested too deeply.", "Remove the inner objects.") from error
    except ValueError as error:  # an integer with thousands of digits
        raise DataError(f"{location}: a number is too long.", "Quote it, or remove it.") from error


def _checked_row(row: Any, location: str, text: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(
            f"{location}: not a JSON object.", 'Write one object per line: {"text": "...", "label": "..."}.'
        )
    if _SURROGATE.search(text):
        _check_surrogates(row, location)
    return row


def _check_surrogates(row: dict[str, Any], location: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(
            f"{location}: {half} is half of a surrogate pair, not a character.", "Write both halves, or remove it."
        ) from error


def _table_rows(file: Iterator[str], name: str, file_format: str, delimiter: str | None) -> Iterator[Row]:
    """Yields the rows of CSV and TSV files with a header line.

    `tab` is the format of Orange, whose second and third lines are types and roles.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    first = next(file, "")
    declared = declared_delimiter(first) if file_format == "csv" else None
    num_skipped = 1 if declared else 0
    lines = file if declared else chain([first], file)
    delimiter = declared or delimiter
    # In TSV files of NLP data sets a quotation mark is an ordinary character.
    if file_format == "tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter or ("," if file_format == "csv" else "\t"))
    header = next(reader, None)
    if not header:
        raise DataError(f"{name} is empty.", "Write a header line with the names of the columns.")
    _check_header(header, name, is_default=file_format == "csv" and delimiter is None)
    if file_format == "tab":
        next(reader, None)
        next(reader, None)
    while True:
        start = reader.line_num + num_skipped + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {start}: {error}.", "Fix the quoting of the line.") from error
        if not values or (file_format == "tab" and len(values) < len(header)):
            continue
        if len(values) != len(header):
            num_lines = reader.line_num + num_skipped + 1 - start
            raise _wrong_number_error(f"{name}, line {start}", len(values), len(header), num_lines)
        yield f"{name}, line {start}", dict(zip(header, values, strict=True))


def _check_header(header: list[str], name: str, *, is_default: bool) -> None:
    """Checks the names of the columns.

    Args:
        header: The names.
        name: The file.
        is_default: Whether neither the source nor the file declares the delimiter.

    Raises:
        DataError: two columns have one name, or the delimiter is another one than a comma.
    """
    other = next((item for item in DELIMITERS if item in header[0]), None)
    if is_default and len(header) == 1 and other:
        raise DataError(
            f"{name} has one column, {header[0]!r}.", f"Set the delimiter, for example: delimiter: {json.dumps(other)}."
        )
    repeated = next((item for item in header if item and header.count(item) > 1), None)
    if repeated is not None:
        raise DataError(f"{name} has two columns with the name {repeated!r}.", "Rename or remove one of them.")


def _wrong_number_error(location: str, number: int, expected: int, num_lines: int) -> DataError:
    if number > expected:
        remedy = "Quote values that contain the delimiter."
    elif num_lines > 1:
        remedy = f"Close the quotation mark: the row goes on for {num_lines} lines."
    else:
        remedy = "Add the missing value: an unknown one is empty, but its delimiter is there."
    values = "1 value" if number == 1 else f"{number} values"
    columns = "1 column" if expected == 1 else f"{expected} columns"
    return DataError(f"{location}: {values}, but the header has {columns}.", remedy)
