"""Tests of the learning-curve stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.learning_curve import stage as learning_curve
from stages.learning_curve.config import FIGURE_FILE, LearningCurveConfig
from tests.support.stage_runs import run


def test_points_are_means_and_deviations_with_few_labels_first(tmp_path: Path) -> None:
    measured = []
    for number, (size, accuracy) in enumerate([(16, 0.8), (16, 0.9), (4, 0.5), (4, 0.7), (4, 0.6)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"num_labeled": size, "test": {"accuracy": accuracy}}))
        measured.append(folder)
    config = LearningCurveConfig(methods=("baseline",) * 4 + ("student",))
    points = run(learning_curve, config, learning_curve.Inputs(measured=tuple(measured)), tmp_path / "out").points
    assert [(point.method, point.num_labeled, point.num_seeds) for point in points] == [
        ("baseline", 4, 2), ("baseline", 16, 2), ("student", 4, 1),
    ]  # fmt: skip
    assert [point.accuracy for point in points] == [0.6, 0.85, 0.6]
    assert points[0].accuracy_std == pytest.approx(0.141421)
    assert points[2].accuracy_std is None
    assert (tmp_path / "out" / FIGURE_FILE).read_bytes().startswith(b"\x89PNG")
