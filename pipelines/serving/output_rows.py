"""Writes the answers of `predict`: CSV, TSV, JSON lines, parquet or plain labels, in constant memory.

An answer has the columns of its row, then those of the prediction, and `error` if the row was rejected. A column of the
input with one of these names becomes `input_NAME`. A table has a column per probability: `probabilities.LABEL`, or
`label.1`, `probability.1` and so on if only the most likely labels are written. In a table, several labels of a text
are a JSON list.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from pipelines.serving.input_rows import FileFormat, InputRows
from pipelines.serving.predictors import TASK, Predictor
from stages.common.errors import DataError

ERROR, LABEL, PROBABILITIES, HIGHLIGHT = "error", "label", "probabilities", "highlight"
MERGED = (TASK, "words")
"""Columns of a prediction that repeat a column of the row."""
_REMEDY_JSONL = "Write JSON lines: --output FILE.jsonl."


@dataclass(frozen=True, slots=True)
class Answer:
    """The columns of a row and its prediction, or the error for which the row was rejected."""

    row: Mapping[str, Any]
    prediction: Mapping[str, Any]
    error: DataError | None = None


class AnswerColumns:
    """Names the columns of the answers of a model.

    Args:
        predictor: The model.
        top_k: Number of labels whose probabilities are written; None: all.
        has_highlight: Whether the words that decided are written.
    """

    def __init__(self, predictor: Predictor[Any], top_k: int | None, *, has_highlight: bool = False) -> None:
        self._names = (*predictor.answers, *([HIGHLIGHT] if has_highlight else []))
        self._labels = tuple(dict.fromkeys(label for labels in predictor.labels.values() for label in labels))
        self._num_columns = None if top_k is None else min(top_k, len(self._labels))

    @property
    def first(self) -> str:
        """The column of the prediction that says most, such as the label or the generated text."""
        return next(name for name in self._names if name not in MERGED)

    def kept(self, name: str) -> str:
        """Returns the name in the output of a column of the input."""
        return f"input_{name}" if name in (*self._names, ERROR) and name not in MERGED else name

    def nested(self, answer: Answer) -> dict[str, Any]:
        """Returns an answer as the object of a JSON line. A rejected row has `error` and a null."""
        row = {self.kept(name): value for name, value in answer.row.items()}
        if answer.error is None:
            return {**row, **answer.prediction}
        return {**row, self.first: None, ERROR: _message(answer.error)}

    def flat(self, answer: Answer) -> dict[str, Any]:
        """Returns an answer as the row of a table."""
        row = {self.kept(name): value for name, value in answer.row.items()}
        for name, value in answer.prediction.items():
            if name != PROBABILITIES:
                row[name] = value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)
            elif self._num_columns is None:
                row |= {f"{PROBABILITIES}.{label}": probability for label, probability in value.items()}
            else:
                for number, (label, probability) in enumerate(value.items(), 1):
                    row |= {f"label.{number}": label, f"probability.{number}": probability}
        return row if answer.error is None else {**row, ERROR: _message(answer.error)}

    def names(self) -> dict[str, type]:
        """Returns the columns of the prediction in a table, with their types."""
        columns: dict[str, type] = {}
        for name in self._names:
            if name != PROBABILITIES:
                columns[name] = str
            elif self._num_columns is None:
                columns |= {f"{PROBABILITIES}.{label}": float for label in self._labels}
            else:
                for number in range(1, self._num_columns + 1):
                    columns |= {f"label.{number}": str, f"probability.{number}": float}
        return {**columns, ERROR: str}


def write_text(
    blocks: Iterator[list[Answer]], columns: AnswerColumns, rows: InputRows, file_format: FileFormat, file: TextIO
) -> None:
    """Writes blocks of answers to a text file.

    Args:
        blocks: The answers, in order.
        columns: The columns of the answers.
        rows: The input, whose columns and delimiter a table repeats.
        file_format: JSON lines, a table, or plain labels.
        file: The open file.

    Raises:
        DataError: a row has a column that the header of the table does not have.
    """
    if file_format in ("csv", "tsv"):
        _write_table(blocks, columns, rows, file_format, file)
        return
    for answer in chain.from_iterable(blocks):
        if file_format == "lines":
            file.write(_one_line(_cell(answer.prediction.get(columns.first))) + "\n")
        else:
            file.write(json.dumps(columns.nested(answer), ensure_ascii=False, default=str) + "\n")


def _write_table(
    blocks: Iterator[list[Answer]], columns: AnswerColumns, rows: InputRows, file_format: FileFormat, file: TextIO
) -> None:
    header: list[str] = []
    writer: Any = None
    for block in blocks:
        if writer is None:
            header = _header(block, columns, rows)
            if file_format == "tsv":
                writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
            else:
                writer = csv.writer(file, delimiter=rows.delimiter, lineterminator="\n")
            writer.writerow(map(_one_line, header) if file_format == "tsv" else header)
        for answer in block:
            row = columns.flat(answer)
            _check_known(row, header)
            cells = [_cell(row.get(name)) for name in header]
            writer.writerow(map(_one_line, cells) if file_format == "tsv" else cells)


def _header(block: list[Answer], columns: AnswerColumns, rows: InputRows) -> list[str]:
    """Returns the columns of the input and of the prediction. JSON lines have the columns of their first rows."""
    kept = rows.columns or tuple(dict.fromkeys(name for answer in block for name in answer.row))
    return list(dict.fromkeys([*map(columns.kept, kept), *columns.names()]))


def _check_known(row: Mapping[str, Any], header: list[str]) -> None:
    for name in row:
        if name not in header:
            raise DataError(f"a row has the column {name!r}, which the first rows do not have.", _REMEDY_JSONL)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    is_number = type(value) is float and math.isfinite(value)  # most cells that are no text
    return repr(value) if is_number else json.dumps(value, ensure_ascii=False, default=str)


def _one_line(value: str | None) -> str:
    """Returns a value of a TSV file, or a plain label: without tabs and line breaks, which would end it."""
    return " ".join((value or "").replace("\t", " ").splitlines())


def write_parquet(blocks: Iterator[list[Answer]], columns: AnswerColumns, rows: InputRows, path: Path) -> None:
    """Writes blocks of answers to a parquet file. Columns of a parquet file keep their types.

    Raises:
        DataError: a column has values of several types.
    """
    import pyarrow  # noqa: PLC0415  (for parquet files only)
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415  (for parquet files only)

    types = {str: pyarrow.string(), float: pyarrow.float64()}
    writer: Any = None
    header: list[str] = []
    try:
        for block in blocks:
            table_rows = [{key: _encodable(value) for key, value in columns.flat(item).items()} for item in block]
            if writer is None:
                header = _header(block, columns, rows)
                known = {name: types[kind] for name, kind in columns.names().items()}
                if rows.schema is not None:
                    given = {columns.kept(field.name): field.type for field in rows.schema}
                else:
                    inferred = pyarrow.Table.from_pylist(table_rows).schema
                    given = {field.name: field.type for field in inferred}
                null = pyarrow.null()
                fields = {name: given.get(name, known.get(name, null)) for name in header}
                schema = pyarrow.schema(
                    [(name, pyarrow.string() if kind == null else kind) for name, kind in (fields | known).items()]
                )
                writer = ParquetWriter(path, schema)
            for row in table_rows:
                _check_known(row, header)
            writer.write_table(pyarrow.Table.from_pylist(table_rows, schema=schema))
        if writer is None:
            names = {columns.kept(name): pyarrow.string() for name in rows.columns or ()}
            names |= {name: types[kind] for name, kind in columns.names().items()}
            writer = ParquetWriter(path, pyarrow.schema(list(names.items())))
    except (pyarrow.ArrowException, OverflowError) as error:
        raise DataError(f"a column has values of several types ({error}).", _REMEDY_JSONL) from error
    finally:
        if writer is not None:
            writer.close()


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _message(error: DataError) -> str:
    return f"{error.problem} {error.remedy}"
