"""Tests of `clozeline recommend`: which options go together, and what a search refuses before it runs anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from stages.common.errors import InputError

ONE_TASK = ("-o", "prompts.tasks=[{pattern: review}]")


def error_of(*words: str) -> InputError:
    result = CliRunner().invoke(app, ["recommend", *words])
    assert isinstance(result.exception, InputError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("smoke", "--budget", "1h"), "--budget is for a search"),
        (("smoke", "--max-parallel", "2"), "--max-parallel is for a search"),
        (("smoke", "--address", "auto"), "--address is for a search"),
        (("smoke", "--search", "--memory", "8"), "--memory is for recommendations without a search"),
        (("smoke", "--search", "--budget", "10"), "'10' is not a duration"),
        (("smoke", "--search", "-o", "prompts=null"), "the recipe has none"),
        (("smoke", "--search"), "the recipe has 2"),
    ],
)
def test_options_that_do_not_fit(
    words: tuple[str, ...], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of(*words)
    assert problem in error.problem
    assert error.remedy
    assert not (tmp_path / "store" / "prompt_search").exists()


def test_output_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke.search.yaml").write_text("mine")
    assert "smoke.search.yaml exists" in error_of("smoke", "--search", *ONE_TASK).problem
    assert (tmp_path / "smoke.search.yaml").read_text() == "mine"


def test_several_labels_per_text_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("smoke", "--search", *ONE_TASK, "-o", "task.problem_type=multi_label_classification")
    assert "a language model fills one label word" in error_of(*words).problem
