"""Curves and calibration that the page shows."""

from __future__ import annotations

from pathlib import Path

from pipelines.report.stage import page_data
from tests.support.reports import write_predictions

ROW = {"student": ("distill/0", "distill/1")}


def test_curves_and_calibration_cover_all_seeds(tmp_path: Path) -> None:
    write_predictions(tmp_path, "distill/0", [1] * 16 + [0] * 4, losses=[0.8, 0.4])
    write_predictions(tmp_path, "distill/1", [1] * 12 + [0] * 8, losses=[0.7, 0.3])
    data = page_data(ROW, {step: tmp_path / step for step in ROW["student"]})
    assert data["curves"] == {"student": {"distill/0": [(1, 0.8), (2, 0.4)], "distill/1": [(1, 0.7), (2, 0.3)]}}
    student = data["confidence"]["student"]
    assert sum(map(sum, student["confusion"])) == 40
    assert student["confusion"][0][0] + student["confusion"][1][1] == 16 + 12
    assert sum(item["count"] for item in student["bins"]) == 40
    first, last = student["coverage"][0], student["coverage"][-1]
    assert first[1] == 1.0 and tuple(last) == (1.0, 0.7)


def test_steps_without_predictions_are_skipped(tmp_path: Path) -> None:
    folders = {step: tmp_path / step for step in ROW["student"]}
    for step in folders:
        write_predictions(tmp_path, step, [1, 0])
    (tmp_path / "distill/1/test_logits.jsonl").unlink()
    assert page_data(ROW, folders)["confidence"]["student"]["num_seeds"] == 1
    (tmp_path / "distill/0/test_logits.jsonl").unlink()
    assert page_data(ROW, folders) == {"curves": {}, "confidence": {}}
