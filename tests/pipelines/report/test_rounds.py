"""Rounds of labeling: one point per run with other labels and the same test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.report.rounds import add_round


def report(num_labeled: int, accuracy: float, name: str = "student/small", kind: str = "student") -> dict[str, Any]:
    mean = {"mean": accuracy, "std": None}
    return {"rows": [{"name": name, "kind": kind, "num_labeled": num_labeled, "accuracy": mean, "num_seeds": 1}]}


def points(found: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    return [(point["method"], point["num_labeled"], point["accuracy"]) for point in found]


def test_rounds_have_a_point_per_number_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "x"
    assert add_round(folder, report(32, 0.7), "a") == []
    assert add_round(folder, report(32, 0.71), "a") == [], "the same labels are no new round"
    assert points(add_round(folder, report(52, 0.8), "a")) == [("student/small", 32, 0.71), ("student/small", 52, 0.8)]
    assert len(add_round(folder, report(42, 0.75), "a")) == 3
    assert points(add_round(folder, report(42, 0.75), "a"))[1] == ("student/small", 42, 0.75)


def test_rounds_with_another_test_set_are_not_compared(tmp_path: Path) -> None:
    add_round(tmp_path, report(32, 0.7), "a")
    assert add_round(tmp_path, report(52, 0.8), "b") == []
    assert len(add_round(tmp_path, report(52, 0.8), "a")) == 2


def test_rows_of_members_have_no_rounds(tmp_path: Path) -> None:
    add_round(tmp_path, report(32, 0.7, "pet/review", "sub-model"), "a")
    assert add_round(tmp_path, report(52, 0.8, "pet/review", "sub-model"), "a") == []
