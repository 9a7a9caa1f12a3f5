"""Curves and calibration that the page shows."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.report.leaderboard import Row, leaderboard
from pipelines.report.stage import page_data
from tests.support.reports import measured, write_predictions

STEPS = ("distill/small/0", "distill/small/1")


def rows_of(root: Path, *steps: str) -> tuple[Row, ...]:
    results = {step: json.loads((root / step / "result.json").read_text()) for step in steps}
    return leaderboard([measured(step) for step in steps], results, "films")


def test_curves_and_calibration_cover_all_seeds(tmp_path: Path) -> None:
    write_predictions(tmp_path, "distill/small/0", [1] * 16 + [0] * 4, losses=[0.8, 0.4])
    write_predictions(tmp_path, "distill/small/1", [1] * 12 + [0] * 8, losses=[0.7, 0.3])
    data = page_data(rows_of(tmp_path, *STEPS), (), {step: tmp_path / step for step in STEPS})
    assert data["curves"] == {
        "student/small": {"distill/small/0": [(1, 0.8), (2, 0.4)], "distill/small/1": [(1, 0.7), (2, 0.3)]}
    }
    student = data["confidence"]["student/small"]
    assert sum(map(sum, student["confusion"])) == 40
    assert student["confusion"][0][0] + student["confusion"][1][1] == 16 + 12
    assert sum(item["count"] for item in student["bins"]) == 40
    first, last = student["coverage"][0], student["coverage"][-1]
    assert first[1] == 1.0 and tuple(last) == (1.0, 0.7)


def test_steps_without_predictions_are_skipped(tmp_path: Path) -> None:
    folders = {step: tmp_path / step for step in STEPS}
    for step in folders:
        write_predictions(tmp_path, step, [1, 0])
    rows = rows_of(tmp_path, *STEPS)
    (tmp_path / "distill/small/1/test_logits.jsonl").unlink()
    assert page_data(rows, (), folders)["confidence"]["student/small"]["num_seeds"] == 1
    (tmp_path / "distill/small/0/test_logits.jsonl").unlink()
    assert page_data(rows, (), folders) == {"curves": {}, "confidence": {}}


def test_calibration_of_all_students_comes_first(tmp_path: Path) -> None:
    steps = ("baseline/small/0", "soft_labels", "distill/small/0", "distill/large/0", "probe/mpnet")
    for step in steps:
        write_predictions(tmp_path, step, [1, 0])
    data = page_data(rows_of(tmp_path, *steps), (), {step: tmp_path / step for step in steps})
    assert list(data["confidence"]) == ["student/small", "student/large", "ensemble", "baseline/small"]
