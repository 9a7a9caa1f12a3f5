"""Tests of the files of regression tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.regression.config import RegressionTask
from stages.regression.examples import RegressionExample, load_examples, read_examples, write_examples

TASK = RegressionTask(name="stars", pattern="{text} {mask}", words=("bad", "good"), range=(0, 5))


def source(folder: Path, *rows: dict[str, Any], **settings: Any) -> Source:
    file = folder / "stars.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(asset=str(file), fields={"text": "review"}, label="stars", **settings)


def test_read_examples_accepts_numbers_and_their_texts(tmp_path: Path) -> None:
    examples = read_examples(
        source(tmp_path, {"review": "a", "stars": 4}, {"review": "b", "stars": " 2.5"}), TASK, "t-"
    )
    assert examples == [RegressionExample("t-0", {"text": "a"}, 4.0), RegressionExample("t-1", {"text": "b"}, 2.5)]
    write_examples(tmp_path / "again.jsonl", examples)
    assert load_examples(tmp_path / "again.jsonl") == examples


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"review": "a", "stars": "many"}, r"line 2: 'stars' is 'many', not a number"),
        ({"review": "a", "stars": None}, r"line 2: 'stars' is None, not a number"),
        ({"review": "a", "stars": True}, r"line 2: 'stars' is True, not a number"),
        ({"review": "a", "stars": "nan"}, r"line 2: 'stars' is 'nan', not a number"),
        ({"review": "a", "stars": 5.5}, r"line 2: 'stars' is 5.5, which is not between 0 and 5"),
        ({"review": " ", "stars": 5}, r"line 2: the field 'text' is empty"),
        ({"review": "a"}, "stars"),
    ],
)
def test_read_examples_names_the_line_of_a_bad_row(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_examples(source(tmp_path, {"review": "a", "stars": 1}, row), TASK)


def test_read_examples_skips_empty_texts_if_asked_to(tmp_path: Path) -> None:
    rows = ({"review": "", "stars": 1}, {"review": "b", "stars": 2})
    assert [item.value for item in read_examples(source(tmp_path, *rows, drop_empty=True), TASK)] == [2.0]
    with pytest.raises(DataError, match="has no example"):
        read_examples(source(tmp_path, rows[0], drop_empty=True), TASK)


@pytest.mark.parametrize("limits", [(5, 0), (1, 1), (0, float("inf"))])
def test_a_range_without_an_order_is_an_error(limits: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="are not a lowest and a highest value"):
        RegressionTask(name="stars", pattern="{text} {mask}", range=limits)


def test_a_pattern_without_mask_is_an_error() -> None:
    with pytest.raises(ValidationError, match="pattern"):
        RegressionTask(name="stars", pattern="{text}", range=(0, 1))
