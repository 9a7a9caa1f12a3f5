"""Tests of Excel files: recipes, init and predict read the same rows."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from pipelines.init.labeled_file import LabeledFile
from pipelines.serving import input_rows
from stages.common.data.config import Source
from stages.common.data.recognition import describe
from stages.common.data.rows import read_rows
from stages.common.errors import DataError

ROWS = [
    ["text", "label", "date", None],
    ["a good film", "good", datetime.datetime(2024, 1, 2), None],
    [None, None, None, None],
    ["ein schönes 电影", 3, None, "more"],
]


def write(path: Path, rows: Sequence[Sequence[Any]] = ROWS) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.create_sheet("other").append(["text"])
    book.save(path)
    return path


def test_rows_of_the_first_sheet_are_read_everywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xlsx")
    expected = [
        ("a.xlsx, row 2", {"text": "a good film", "label": "good", "date": "2024-01-02T00:00:00"}),
        ("a.xlsx, row 4", {"text": "ein schönes 电影", "label": 3, "date": None}),
    ]
    assert list(read_rows(Source(asset=str(path)))) == expected
    file = LabeledFile(str(path))
    assert (file.rows, file.columns, describe(file.source)) == (expected, ("text", "label", "date"), "Excel")
    with path.open("rb") as stream:
        rows = input_rows.read_rows(stream, "a.xlsx", None, "text")
        assert (rows.format, rows.columns) == ("csv", ("text", "label", "date"))
        assert [(row.location, row.values) for row in rows.rows] == expected


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([["text", "label", "label"], ["a", "b", "c"]], r"a\.xlsx has two columns with the name 'label'"),
        ([], r"the first sheet of a\.xlsx is empty"),
    ],
)
def test_sheets_without_clear_columns_are_errors(rows: list[list[str]], problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        list(read_rows(Source(asset=str(write(tmp_path / "a.xlsx", rows)))))


def test_other_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"text,label\n")
    with pytest.raises(DataError, match=r"cannot read a\.xlsx as xlsx") as caught:
        list(read_rows(Source(asset=str(tmp_path / "a.xlsx"))))
    assert "CSV" in caught.value.remedy


def test_a_missing_extra_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match="not installed") as caught:
        list(read_rows(Source(asset=str(path))))
    assert "clozeline[excel]" in caught.value.remedy
