"""One run with token-level tasks of both kinds: report, predictions and service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.services import service
from tests.support.token_level_tasks import FILMS, token_level_overrides

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides of the smoke recipe for a token-level task of each kind."""
    return token_level_overrides(tmp_path_factory.mktemp("token-level"))


@pytest.fixture(scope="module")
def token_level_run(
    words: tuple[str, ...], clozeline: Clozeline, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The store of a run of both kinds of task, and the overrides of its recipe."""
    overrides = [item for word in (*words, "name=token_level", "zero_shot=false") for item in ("-o", word)]
    store = tmp_path_factory.mktemp("token-level-run") / "store"
    done = clozeline("run", "smoke", *overrides, "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    return store, overrides


def folder_of(task: str, store: Path) -> str:
    """Returns the folder of the result of a prompt."""
    return str(next((store / "prompts" / task / "v2" / "0").iterdir()))


def test_the_report_has_scores_of_token_level_tasks(token_level_run: tuple[Path, list[str]]) -> None:
    store, _ = token_level_run
    report = json.loads((store / "reports" / "token_level" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["prompts/works/v2"]["entity_f1"] is not None
    assert rows["prompts/works/v2"]["mcc"] is None
    assert rows["prompts/answers/ppt"]["exact_match"] == rows["prompts/answers/ppt"]["accuracy"]
    assert (rows["prompts/works/v2"]["num_labeled"], rows["prompts/works/v2"]["num_test"]) == (8, 16)
    page = (store / "reports" / "token_level" / "report.md").read_text()
    assert "entity F1" in page
    assert "data/answers: 16 test examples are also in the training files (leak)." in page


def test_predict_labels_words_and_answers_questions(
    token_level_run: tuple[Path, list[str]], clozeline: Clozeline
) -> None:
    store, overrides = token_level_run

    def predict(task: str, line: str) -> dict[str, object]:
        answer = clozeline("predict", folder_of(task, store), "--input", "-", stdin=line + "\n")
        assert answer.returncode == 0, answer.stderr
        prediction: dict[str, object] = json.loads(answer.stdout)
        return prediction

    labeled = predict("works", "the film was good")
    assert labeled["words"] == ["the", "film", "was", "good"]
    assert len(labeled["labels"]) == 4
    assert predict("answers", '{"question": "What is it?", "context": "a dull plot"}')["answer"] in "a dull plot"
    wrong = clozeline("predict", folder_of("works", store), "--input", "-", stdin='{"words": 3}\n')
    assert wrong.returncode == 2
    assert "stdin:1: no row can be labeled: the field words is not a list of words" in wrong.stderr
    command = ("predict", "smoke", "--prompts", "v2", "--input", "-", *overrides, "--store", str(store))
    both = clozeline(*command, stdin='{"task": "works"}\n')
    assert both.returncode == 2
    assert "has no prompt here" in both.stderr


def test_the_service_labels_words_as_predict_does(
    token_level_run: tuple[Path, list[str]], clozeline: Clozeline
) -> None:
    folder = folder_of("works", token_level_run[0])
    done = clozeline("predict", folder, "--input", "-", stdin="\n".join(FILMS))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    assert {label for line in expected for label in line["labels"]} <= {"O", "B-WORK"}
    with service(folder) as running:
        example = running.ask("GET", "/").body["example"]["POST /predict"]
        assert running.ask("POST", "/predict", example).status == 200, "the example is valid"
        assert running.predict(FILMS) == expected
        rows = [{"words": text.split()} for text in FILMS]
        assert running.ask("POST", "/predict", {"inputs": rows}).body["predictions"] == expected
        wrong = running.ask("POST", "/predict", {"inputs": [rows[0], {"words": 3}]})
    assert (wrong.status, wrong.body["field"]) == (422, "inputs[1].words")
    assert "not a list of words" in wrong.body["error"]


def test_the_service_answers_questions_as_predict_does(
    token_level_run: tuple[Path, list[str]], clozeline: Clozeline
) -> None:
    folder = folder_of("answers", token_level_run[0])
    rows = [{"question": "What is it?", "context": text} for text in FILMS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    expected = [
        json.loads(line) for line in clozeline("predict", folder, "--input", "-", stdin=lines).stdout.splitlines()
    ]
    with service(folder) as running:
        answers = running.ask("POST", "/predict", {"inputs": rows}).body["predictions"]
        plain = running.ask("POST", "/predict", {"texts": FILMS})
        missing = running.ask("POST", "/predict", {"inputs": [{"question": "What?"}]})
    assert [item["answer"] for item in answers] == [item["answer"] for item in expected]
    assert all(item["answer"] in row["context"] for item, row in zip(answers, rows, strict=True))
    assert (plain.status, plain.body["field"]) == (422, "texts")
    assert (missing.status, missing.body["field"]) == (422, "inputs[0].context")
