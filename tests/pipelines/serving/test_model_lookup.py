"""Which model of a recipe `predict` and `serve` use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.serving.model_lookup import ModelChoice, find_model
from stages.common.errors import InputError

DEFAULT = ModelChoice()


def steps_of(store: Path, choice: ModelChoice) -> list[str]:
    return [origin["step"] for origin in find_model("smoke", None, store, choice).origins]


def test_the_report_selects_the_classifier(smoke_run: tuple[Path, str]) -> None:
    store = smoke_run[0]
    report = json.loads((store / "reports/smoke/report.json").read_text())
    assert report["delivered"]["row"] == "student/small"
    (folder,) = find_model("smoke", None, store, DEFAULT).folders
    assert (folder / "classifier.json").exists()
    assert steps_of(store, DEFAULT) == ["distill/small/0"]


def test_a_classifier_of_a_recipe_has_its_test_set(smoke_run: tuple[Path, str]) -> None:
    source = find_model("smoke", None, smoke_run[0], DEFAULT)
    assert source.test_set is not None
    texts, confidences = source.test_set.load()
    assert len(texts) == len(confidences) == 64
    assert all(0.5 <= value <= 1 for value in confidences), "of the more probable one of two labels"
    assert find_model(str(source.folders[0]), None, smoke_run[0], DEFAULT).test_set is None


def test_another_row_may_be_used(smoke_run: tuple[Path, str]) -> None:
    assert steps_of(smoke_run[0], ModelChoice(row="baseline/small")) == ["baseline/small/0"]


def test_another_row_needs_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="baseline/small/0 of smoke has no result"):
        find_model("smoke", None, tmp_path, ModelChoice(row="baseline/small"))
    with pytest.raises(InputError, match="report of smoke has no result") as caught:
        find_model("smoke", None, tmp_path, DEFAULT)
    assert "clozeline run smoke" in caught.value.remedy


@pytest.mark.parametrize("row", ["student/large", "ensemble", "pet/review"])
def test_a_row_that_is_no_classifier_is_an_error(row: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no classifier '{row}'") as caught:
        find_model("smoke", None, tmp_path, ModelChoice(row=row))
    assert caught.value.remedy == "Use one of: student/small, baseline/small."


def test_a_row_excludes_prompts_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--prompts selects prompts"):
        find_model("smoke", None, tmp_path, ModelChoice(row="student/small", prompts="ppt"))
    with pytest.raises(InputError, match="is a folder"):
        find_model(str(tmp_path), None, tmp_path, ModelChoice(row="student/small"))
