"""Reads the rows of a dataset of the Hugging Face hub or of a database for `predict` and `score`, as `init` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from pipelines.serving.input_rows import InputRow, InputRows
from stages.common.data.database import database_rows, is_database, source_name
from stages.common.data.recognition import recognized_source
from stages.common.data.rows import read_rows
from stages.common.examples import Row


def is_remote(reference: str) -> bool:
    """Returns True for `hf:ORG/NAME` and for the URL of a database."""
    return reference.startswith("hf:") or is_database(reference)


def shown_name(reference: str) -> str:
    """Returns the name of a file or of remote rows for messages, without the password of a database."""
    return source_name(reference) if is_database(reference) else reference


def remote_rows(reference: str) -> InputRows:
    """Reads the first row, so that errors come before the model is loaded; the others are streamed.

    Args:
        reference: `hf:ORG/NAME?subset=NAME&split=NAME`, or `URL#TABLE` or `URL#SELECT ...` of a database.

    Raises:
        DataError: the hub is unreachable, or has no such data.
        InputError: the database cannot be read.
    """
    rows = database_rows(reference) if is_database(reference) else read_rows(recognized_source(reference))
    first = next(rows, None)
    if first is None:
        return InputRows("jsonl", iter(()))
    return InputRows("jsonl", _input_rows(chain([first], rows)), columns=tuple(first[1]))


def _input_rows(rows: Iterator[Row]) -> Iterator[InputRow]:
    for location, row in rows:
        yield InputRow(location, _plain(row))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row with values of JSON. Others, such as dates, become text."""
    values: dict[str, Any] = json.loads(json.dumps(dict(row), default=str))
    return values
