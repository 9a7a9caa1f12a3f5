"""Tests of reading tagged texts, and questions with answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.token_level.examples import Answer, Question, TaggedText, read_examples
from tests.support.token_level_data import ANSWERS, ENTITIES

WORDS = {"fields": {"words": "tokens"}, "label": "tags"}
SQUAD = {"fields": {"question": "question", "context": "context"}, "label": "answers"}


def source(path: Path, rows: list[Any], columns: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(asset=str(path), **columns)


def test_read_examples_accepts_conll(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("-DOCSTART- -X- O\n\nCritics NNS B-WHO\npraise VB O\n\n\nfilm NN B-WORK\n")
    conll = Source(asset=str(tmp_path / "a.conll"), fields={"words": "words"}, label="labels")
    assert read_examples(conll, ENTITIES, "a-") == [
        TaggedText("a-0", ("Critics", "praise"), ("B-WHO", "O")),
        TaggedText("a-1", ("film",), ("B-WORK",)),
    ]
    (tmp_path / "a.conll").write_text("Critics B-WHO\nfilm\n")
    with pytest.raises(DataError, match=r"line 2: a word without a label"):
        read_examples(conll, ENTITIES)


def test_read_examples_accepts_parquet_and_label_map(tmp_path: Path) -> None:
    pandas.DataFrame({"tokens": [["film", "is"]], "tags": [[1, 0]]}).to_parquet(tmp_path / "a.parquet")
    tokens = Source(asset=str(tmp_path / "a.parquet"), **WORDS, label_map={"0": "O", "1": "B-WORK"})
    assert read_examples(tokens, ENTITIES) == [TaggedText("0", ("film", "is"), ("B-WORK", "O"))]
    answers = {"text": ["is"], "answer_start": [5]}
    frame = pandas.DataFrame({"question": ["What?"], "context": ["film is"], "answers": [answers]})
    frame.to_parquet(tmp_path / "b.parquet")
    squad = Source(asset=str(tmp_path / "b.parquet"), **SQUAD)
    assert read_examples(squad, ANSWERS) == [Question("0", "What?", "film is", (Answer("is", 5),))]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words, but 1 labels"),
        ({"tokens": ["a"], "tags": ["B-X"]}, "the label 'B-X' is not in labels"),
        ({"tokens": "a", "tags": ["O"]}, "'tokens' is str, not a list"),
        ({"tokens": [], "tags": []}, "the text has no words"),
        ({"tokens": [{}], "tags": ["O"]}, "'tokens' has items that are not texts"),
        ({"tokens": ["a"]}, "there is no column 'tags'"),
    ],
)
def test_malformed_tagged_text_raises(row: Any, problem: str, tmp_path: Path) -> None:
    rows = [{"tokens": ["a"], "tags": ["O"]}, row]
    with pytest.raises(DataError) as caught:
        read_examples(source(tmp_path / "a.jsonl", rows, WORDS), ENTITIES)
    assert f"a.jsonl, line 2: {problem}" in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"text": ["x"], "answer_start": [0]}, "the answer 'x' is not at character 0"),
        ({"text": ["film"], "answer_start": []}, "'answers' has no answers"),
        ("film", "'answers' has no answers"),
        ({"text": [], "answer_start": []}, "the question has no answer"),
    ],
)
def test_malformed_question_raises(answers: Any, problem: str, tmp_path: Path) -> None:
    row = {"question": "What?", "context": "film is", "answers": answers}
    with pytest.raises(DataError, match=r"line 1") as caught:
        read_examples(source(tmp_path / "a.jsonl", [row], SQUAD), ANSWERS)
    assert problem in str(caught.value)
    if "no answer." in str(caught.value):
        task = ANSWERS.model_copy(update={"unanswerable": True})
        assert read_examples(source(tmp_path / "a.jsonl", [row], SQUAD), task) == [Question("0", "What?", "film is")]
