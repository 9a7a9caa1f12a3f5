"""Tests of reading examples of text generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.generation.examples import load_examples, read_examples, write_examples
from tests.support.small_models import write_lines


def source(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Source:
    path = write_lines(folder / "rows.jsonl", rows)
    return Source(asset=str(path), fields={"text": "article"}, label="summary", **settings)


def test_examples_are_read_and_written(tmp_path: Path) -> None:
    rows = [{"article": "A long text.", "summary": " Short. "}, {"article": "Another.", "summary": ["One.", "Two."]}]
    examples = read_examples(source(tmp_path, rows), "train-")
    assert [item.uid for item in examples] == ["train-0", "train-1"]
    assert examples[0].fields == {"text": "A long text."}
    assert [item.references for item in examples] == [("Short.",), ("One.", "Two.")]
    write_examples(tmp_path / "written.jsonl", examples)
    assert load_examples(tmp_path / "written.jsonl") == examples


def test_lists_of_a_parquet_file_are_references(tmp_path: Path) -> None:
    pd.DataFrame({"article": ["A text."], "summary": [["One.", "Two."]]}).to_parquet(tmp_path / "rows.parquet")
    settings = Source(asset=str(tmp_path / "rows.parquet"), fields={"text": "article"}, label="summary")
    assert read_examples(settings)[0].references == ("One.", "Two.")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"article": "Text.", "summary": " "}, r"line 2: the target 'summary' is empty or not a text"),
        ({"article": "Text.", "summary": None}, r"line 2: the target 'summary' is empty"),
        ({"article": "Text.", "summary": []}, r"line 2: the target 'summary' is empty"),
        ({"article": "Text.", "summary": ["One.", ""]}, r"line 2: the target 'summary' is empty"),
        ({"article": "Text.", "summary": 7}, r"line 2: the target 'summary' is empty or not a text"),
        ({"article": "", "summary": "One."}, r"line 2: the field 'text' is empty or not a text"),
        ({"article": 7, "summary": "One."}, r"line 2: the field 'text' is empty or not a text"),
        ({"article": "Text."}, r"there is no column 'summary'"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        read_examples(source(tmp_path, [{"article": "A text.", "summary": "One."}, row]))


def test_empty_rows_are_dropped_and_the_limit_counts_the_others(tmp_path: Path) -> None:
    rows = [{"article": text, "summary": f"S{number}"} for number, text in enumerate(["a", "", "b", "c"])]
    examples = read_examples(source(tmp_path, rows, drop_empty=True, limit=2))
    assert [item.references[0] for item in examples] == ["S0", "S2"]
    with pytest.raises(DataError, match="has no example"):
        read_examples(source(tmp_path, rows, filter={"summary": ["none"]}))
