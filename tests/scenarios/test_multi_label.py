"""From lists of labels to a classifier in service: fit, predict, serve, export and the errors of other commands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import clozeline
from cluster.run.ray_session import Capacity
from pipelines.cli.app import app
from pipelines.serving.batch_inference import AnswerOptions, RowLabeler
from pipelines.serving.loading import load_predictor
from pipelines.serving.pyfunc import PyfuncModel
from stages.common.errors import InputError

PARTS = {"bug": "the app crashes", "money": "the invoice is wrong", "parcel": "nothing was delivered"}
SETS: list[list[str]] = [
    [], ["bug"], ["money"], ["parcel"], ["bug", "money"], ["bug", "parcel"], ["money", "parcel"]
]  # fmt: skip
WORDS_ONLY = ("members={words: {kind: tfidf}}", "students={words: {kind: tfidf}}", "baseline=null")


def text_of(names: list[str], number: int) -> str:
    return f"{' and '.join(PARTS[name] for name in names) or 'thank you'}, case {number}"


@pytest.fixture(scope="module")
def fitted(ray_session: Capacity, tmp_path_factory: pytest.TempPathFactory) -> clozeline.Classifier:
    del ray_session
    train = [(text_of(names, number), names) for number in range(8) for names in SETS]
    unlabeled = [text_of(names, number) for number in range(100, 110) for names in SETS]
    test = [(text_of(names, number), names) for number in range(200, 203) for names in SETS]
    folder = tmp_path_factory.mktemp("fit") / "tickets"
    return clozeline.fit(train, unlabeled, test=test, folder=folder, overrides=WORDS_ONLY, progress=False)


@pytest.fixture(scope="module")
def exported(fitted: clozeline.Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.export(tmp_path_factory.mktemp("export") / "model")


def test_fit_learns_lists_of_labels(fitted: clozeline.Classifier) -> None:
    texts = [text_of(names, 7) for names in SETS]
    assert fitted.labels == ("bug", "money", "parcel")
    assert fitted.predict(texts) == SETS
    probabilities = fitted.predict_proba(texts)
    assert probabilities.shape == (7, 3)
    assert ((probabilities > 0.5) == [[name in names for name in fitted.labels] for names in SETS]).all()
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 0.1, "each label has a probability of its own"
    frame = fitted.predict(pandas.DataFrame({"text": texts}))
    assert frame["label"].tolist() == SETS
    assert fitted.predict(texts[:2], threshold=1.0) == [[], []]
    assert fitted.predict(texts[4:5], threshold=0.0) == [["bug", "money", "parcel"]]
    assert fitted.predict(texts[:1], threshold=0.9, abstain_label="ask") == [["ask"]]


def test_report_has_the_scores_of_label_sets(fitted: clozeline.Classifier) -> None:
    report = fitted.report
    rows = {row["name"]: row for row in report["rows"]}
    assert report["delivered"]["row"] == "student/words"
    student = rows["student/words"]
    assert student["micro_f1"]["mean"] > 0.95 and student["macro_f1"]["mean"] > 0.95
    assert student["accuracy"]["mean"] > 0.9 and student["mcc"] is None
    (folder,) = (Path(fitted.store) / "reports").iterdir()
    header = (folder / "report.md").read_text().splitlines()[2]
    assert header.startswith("| method | micro-F1 | macro-F1 | subset accuracy |")
    html = (folder / "report.html").read_text()
    assert "Test micro-F1 in percent" in html and "Confusion matrix" not in html


def test_exported_folder_predicts_files(exported: Path, tmp_path: Path) -> None:
    assert json.loads((exported / "tfidf.json").read_text())["problem_type"] == "multi_label_classification"
    card = (exported / "README.md").read_text()
    assert "A multi-label text classifier with 3 labels" in card and "subset accuracy" in card
    lines = "".join(json.dumps({"text": text_of(names, 9)}) + "\n" for names in SETS)

    def predict(*options: str) -> str:
        done = CliRunner().invoke(app, ["predict", str(exported), "--input", "-", *options], input=lines)
        assert done.exit_code == 0, done.output
        return done.stdout

    answers = [json.loads(line) for line in predict("--format", "jsonl").splitlines()]
    assert [answer["label"] for answer in answers] == SETS
    assert all(set(answer["probabilities"]) == set(PARTS) for answer in answers)
    predict("--format", "jsonl", "--output", str(tmp_path / "out.csv"))
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [json.loads(row["label"]) for row in table] == SETS
    assert float(table[1]["probabilities.bug"]) > 0.5
    done = CliRunner().invoke(app, ["predict", str(exported), "--input", "-", "--highlight"], input=lines)
    assert isinstance(done.exception, InputError) and "--highlight" in str(done.exception)


def test_services_and_mlflow_answer_with_lists(exported: Path) -> None:
    predictor = load_predictor([exported])
    row = {"text": text_of(["bug", "money"], 3)}
    prediction = predictor.predict([predictor.parse_row(row, "0")])[0]
    assert prediction["label"] == ["bug", "money"]
    assert PyfuncModel(predictor).predict([row])["label"].tolist() == [["bug", "money"]]
    labeler = RowLabeler(predictor, {}, AnswerOptions(), lambda error: None)
    observe: Callable[[Any, dict[str, Any]], dict[str, Any]] = labeler._observed
    observe(predictor.parse_row(row, "0"), prediction)
    lowest = min(max(value, 1 - value) for value in prediction["probabilities"].values())
    assert labeler.sample[0][1] == pytest.approx(lowest)


def test_label_files_are_for_one_label(fitted: clozeline.Classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one label per text"):
        clozeline.select(fitted.recipe, 3, store=fitted.store, overrides=WORDS_ONLY)
    (tmp_path / "tickets.labels.csv").write_text("text,label\nthe app crashes,\n")
    arguments = ["label", str(tmp_path / "tickets.labels.csv"), "--recipe", fitted.recipe]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, InputError) and "one label per text" in str(done.exception)


def test_patterns_score_one_label(fitted: clozeline.Classifier) -> None:
    done = CliRunner().invoke(app, ["score", fitted.recipe, "--input", "-", "--backbone", "model"], input="{}")
    assert isinstance(done.exception, InputError) and "exactly one" in str(done.exception)
