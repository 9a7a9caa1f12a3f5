"""Reads the rows of an Excel file: those of its first sheet, whose first row has the names of the columns.

openpyxl, which reads them, is an extra.
"""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

from stages.common.errors import DataError
from stages.common.examples import Row


def excel_rows(file: Path | BinaryIO, name: str) -> Iterator[Row]:
    """Yields the rows of the first sheet, in order, without blank ones. An empty cell is None.

    Args:
        file: Path or open file.
        name: Name of the file, for locations.

    Raises:
        DataError: openpyxl is missing, or the file is not an Excel file or has two columns of one name.
    """
    try:
        from openpyxl import load_workbook  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise DataError(
            "openpyxl, which reads Excel files, is not installed.",
            "Install it (pip install 'clozeline[excel]'), or save the sheet as CSV.",
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats of cells
            book = load_workbook(file, read_only=True, data_only=True)
            try:
                yield from _sheet_rows(book.worksheets[0].iter_rows(values_only=True), name)
            finally:
                book.close()
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, ParseError, OSError) as error:
        raise DataError(f"cannot read {name} as xlsx ({error}).", "Save it again, or as CSV.") from error


def _sheet_rows(lines: Iterator[tuple[Any, ...]], name: str) -> Iterator[Row]:
    cells = list(next(lines, ()))
    while cells and cells[-1] is None:  # columns without a name, which Excel keeps after a deletion
        cells.pop()
    header = ["" if cell is None else str(cell) for cell in cells]
    if not header:
        raise DataError(f"the first sheet of {name} is empty.", "Write a first row with the names of the columns.")
    repeated = next((item for item in header if item and header.count(item) > 1), None)
    if repeated is not None:
        raise DataError(f"{name} has two columns with the name {repeated!r}.", "Rename or remove one of them.")
    for number, line in enumerate(lines, 2):
        values = [_plain(value) for value in islice(line, len(header))]
        if any(value is not None for value in values):
            missing = [None] * (len(header) - len(values))
            yield f"{name}, row {number}", dict(zip(header, [*values, *missing], strict=True))


def _plain(value: Any) -> Any:
    """Returns a value of a cell as JSON has it. Dates become texts."""
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value
