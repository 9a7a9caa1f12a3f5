"""Files with labels of words, and with questions and answers; and the sets that are drawn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.common.data.config import Source
from stages.common.errors import DataError
from stages.token_level.config import QuestionAnsweringTask, TokenClassificationTask
from stages.token_level.examples import Answer, Question, TaggedText, read_examples
from stages.token_level.splits import stage as annotation_splits
from stages.token_level.splits.config import TokenLevelData, TokenLevelSplitsConfig
from stages.token_level.splits.stage import sample_splits
from tests.support.stage_runs import run

ENTITIES = TokenClassificationTask(name="things", labels=("O", "B-WORK", "I-WORK", "B-WHO"))
ANSWERS = QuestionAnsweringTask(name="answers", max_answer_tokens=6, overlap=8)
WORDS = {"fields": {"words": "tokens"}, "label": "tags"}
SQUAD = {"fields": {"question": "question", "context": "context"}, "label": "answers"}


def source(path: Path, rows: list[Any], form: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(asset=str(path), **form)


def test_conll_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("-DOCSTART- -X- O\n\nCritics NNS B-WHO\npraise VB O\n\n\nfilm NN B-WORK\n")
    form = Source(asset=str(tmp_path / "a.conll"), fields={"words": "words"}, label="labels")
    found = read_examples(form, ENTITIES, "a-")
    assert found == [
        TaggedText("a-0", ("Critics", "praise"), ("B-WHO", "O")),
        TaggedText("a-1", ("film",), ("B-WORK",)),
    ]
    (tmp_path / "a.conll").write_text("Critics B-WHO\nfilm\n")
    with pytest.raises(DataError, match=r"line 2: a word without a label"):
        read_examples(form, ENTITIES)


def test_parquet_and_label_names_are_read(tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame({"tokens": [["film", "is"]], "tags": [[1, 0]]}).to_parquet(tmp_path / "a.parquet")
    form = Source(asset=str(tmp_path / "a.parquet"), **WORDS, label_map={"0": "O", "1": "B-WORK"})
    assert read_examples(form, ENTITIES) == [TaggedText("0", ("film", "is"), ("B-WORK", "O"))]
    answers = {"text": ["is"], "answer_start": [5]}
    frame = pandas.DataFrame({"question": ["What?"], "context": ["film is"], "answers": [answers]})
    frame.to_parquet(tmp_path / "b.parquet")
    found = read_examples(Source(asset=str(tmp_path / "b.parquet"), **SQUAD), ANSWERS)
    assert found == [Question("0", "What?", "film is", (Answer("is", 5),))]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words, but 1 labels"),
        ({"tokens": ["a"], "tags": ["B-X"]}, "the label 'B-X' is not in labels"),
        ({"tokens": "a", "tags": ["O"]}, "'tokens' is str, not a list"),
        ({"tokens": [], "tags": []}, "the text has no words"),
        ({"tokens": [{}], "tags": ["O"]}, "'tokens' holds something else than texts"),
        ({"tokens": ["a"]}, "there is no column 'tags'"),
    ],
)
def test_rows_that_are_no_labelled_words_are_refused(row: Any, problem: str, tmp_path: Path) -> None:
    rows = [{"tokens": ["a"], "tags": ["O"]}, row]
    with pytest.raises(DataError) as caught:
        read_examples(source(tmp_path / "a.jsonl", rows, WORDS), ENTITIES)
    assert f"a.jsonl, line 2: {problem}" in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"text": ["x"], "answer_start": [0]}, "the answer 'x' does not stand at character 0"),
        ({"text": ["film"], "answer_start": []}, "'answers' holds no answers"),
        ("film", "'answers' holds no answers"),
        ({"text": [], "answer_start": []}, "the question has no answer"),
    ],
)
def test_rows_that_are_no_answered_questions_are_refused(answers: Any, problem: str, tmp_path: Path) -> None:
    row = {"question": "What?", "context": "film is", "answers": answers}
    with pytest.raises(DataError, match=r"line 1") as caught:
        read_examples(source(tmp_path / "a.jsonl", [row], SQUAD), ANSWERS)
    assert problem in str(caught.value)
    if "no answer." in str(caught.value):
        free = ANSWERS.model_copy(update={"unanswerable": True})
        assert read_examples(source(tmp_path / "a.jsonl", [row], SQUAD), free) == [Question("0", "What?", "film is")]


def test_the_split_stage_draws_by_its_seed_and_counts_leaks(tmp_path: Path) -> None:
    rows = [{"tokens": ["film", str(number)], "tags": ["B-WORK", "O"]} for number in range(20)]
    files = source(tmp_path / "a.jsonl", rows, WORDS)
    data = TokenLevelData(train=files, test=files, train_size=5, test_size=10)

    def drawn(seed: int, where: str) -> tuple[Any, bytes]:
        config = TokenLevelSplitsConfig(task=ENTITIES, data=data, seed=seed)
        result = run(annotation_splits, config, annotation_splits.Inputs(), tmp_path / where)
        return result, (tmp_path / where / "train.jsonl").read_bytes()

    first, train = drawn(1, "first")
    assert (first.num_train, first.num_dev, first.num_test, first.label_counts) == (5, 0, 10, {"B-WORK": 5, "O": 5})
    assert 0 < first.num_test_seen <= 5
    assert drawn(1, "again")[1] == train != drawn(2, "other")[1]
    with pytest.raises(DataError, match=r"30 train texts were asked for, but the file has 20") as caught:
        sample_splits(TokenLevelSplitsConfig(task=ENTITIES, data=data.model_copy(update={"train_size": 30}), seed=1))
    assert caught.value.key == "data.train_size"
    wrong = TokenLevelData(train=files.model_copy(update={"fields": {"text": "tokens"}}), test=files)
    with pytest.raises(DataError, match=r"the field 'words'"):
        sample_splits(TokenLevelSplitsConfig(task=ENTITIES, data=wrong, seed=1))
