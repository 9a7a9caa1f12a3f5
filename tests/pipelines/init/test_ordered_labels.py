"""`clozeline init` takes the order of labels from a flag, and proposes it for numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from stages.common.config import ORDINAL, SINGLE_LABEL
from tests.support.init_files import init, init_error, write_csv, write_jsonl


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stars(labels: tuple[str, ...]) -> str:
    return write_csv("stars.csv", ("text", "label"), [(f"review {n}", labels[n % len(labels)]) for n in range(40)])


def test_flag_orders_the_labels_of_the_recipe() -> None:
    flags = ("--ordered-labels", "poor,fair, good", "--backbone", "none", "--yes", "--output", "made.yaml")
    done = init(stars(("good", "poor", "fair")), *flags)
    assert done.exit_code == 0, done.output
    task = read_recipe(Path("made.yaml"), PipelineConfig).task
    assert (task.labels, task.problem_type) == (("poor", "fair", "good"), ORDINAL)
    assert "hint" not in done.stdout


def test_numbers_are_proposed_only() -> None:
    done = init(stars(("10", "2", "1")), "--backbone", "none", "--yes", "--output", "made.yaml")
    assert done.exit_code == 0, done.output
    assert "add --ordered-labels 1,2,10." in " ".join(done.stdout.split())
    assert read_recipe(Path("made.yaml"), PipelineConfig).task.problem_type == SINGLE_LABEL


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ("1,2", "'3' is missing"),
        ("1,2,3,4", "'4' is no label"),
        ("1,2,2,3", "'2' occurs twice"),
        (",", "'' is no label"),
    ],
)
def test_order_must_have_each_label_once(order: str, problem: str) -> None:
    message = init_error(stars(("1", "2", "3")), "--ordered-labels", order, "--yes")
    assert problem in message and "List all of them from low to high: 1, 2, 3." in message


def test_several_labels_per_text_have_no_order() -> None:
    rows = [{"text": f"text {n}", "label": ["a", "b"][: n % 3]} for n in range(40)]
    message = init_error(write_jsonl("sets.jsonl", rows), "--label", "label", "--ordered-labels", "a,b", "--yes")
    assert "--ordered-labels is for one" in message
