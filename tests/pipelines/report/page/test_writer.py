"""The files of a report: JSON, Markdown, the flat table for MLflow, and the table for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.report.page import writer
from tests.support.reports import RUN, report_on, write_predictions


@pytest.fixture
def written(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A report on a student and a baseline, and the folder with its files."""
    write_predictions(tmp_path, "baseline/small/0", [1, 0, 0, 0])
    write_predictions(tmp_path, "distill/small/0", [1, 1, 1, 0])
    write_predictions(tmp_path, "distill/small/1", [1, 0, 1, 0])
    result = report_on(tmp_path, "baseline/small/0", "distill/small/0", "distill/small/1")
    report = writer.build_report("films", result, {"distill/small/0": 2.0}, RUN)
    writer.write_report(report, tmp_path / "report" / "leaderboard.png", tmp_path / "pages")
    return report, tmp_path / "pages"


def test_json_has_metrics_comparisons_and_suggestions(written: tuple[dict[str, Any], Path]) -> None:
    report, folder = written
    content = json.loads((folder / "report.json").read_text())
    assert content == report
    baseline, student = content["rows"]
    assert (baseline["mcc"], baseline["ece"]) == ({"mean": -0.5, "std": None}, {"mean": 0.1, "std": None})
    assert baseline["exact_match"] is None
    assert (baseline["seconds"], student["seconds"]) == (None, 2.0)
    assert content["comparisons"][0]["difference"] == 0.375
    assert content["notes"][0].startswith("student/small - baseline/small: +37.5 points")
    assert [item["rule"] for item in content["suggestions"]] == ["small_test", "student_not_ahead", "large_spread"]
    assert content["step_seconds"] == {"distill/small/0": 2.0}
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_markdown_has_suggestions_with_evidence(written: tuple[dict[str, Any], Path]) -> None:
    report, folder = written
    text = (folder / "report.md").read_text()
    assert "## Suggestions" in text
    assert all(f"- {item['evidence']} {item['action']}" in text for item in report["suggestions"])
    assert "Suggestions" not in writer.report_markdown({**report, "suggestions": []})


def test_files_name_the_classifier_to_use(written: tuple[dict[str, Any], Path]) -> None:
    report, folder = written
    delivered = json.loads((folder / "report.json").read_text())["delivered"]
    assert delivered["row"] == "student/small"
    sentence = f"Use student/small. {delivered['reason']}"
    assert f"**{sentence}**" in (folder / "report.md").read_text()
    assert sentence in (folder / "report.html").read_text()
    styles = [row.style for row in writer.leaderboard_table(report, 120).rows]
    assert styles == [None, "bold green"]
    without = writer.report_markdown({**report, "delivered": None})
    assert "Use student/small" not in without


def test_pages_have_all_columns_and_the_terminal_has_fewer(written: tuple[dict[str, Any], Path]) -> None:
    report, folder = written
    head, _, baseline, student = (folder / "report.md").read_text().splitlines()[2:6]
    assert head == ("| method | accuracy | macro-F1 | MCC | seeds | labeled | unlabeled | trainable params | seconds |")
    assert baseline == "| baseline/small | 25.0 | 12.5 | -50.0 | 1 | 16 | 1,000 | 2.0k |  |"
    assert student == "| student/small | 62.5 ± 17.7 | 31.2 ± 8.8 | 25.0 ± 35.4 | 2 | 16 | 1,000 | 2.0k | 2 |"
    assert "<th>MCC</th>" in (folder / "report.html").read_text()
    columns = [str(column.header) for column in writer.leaderboard_table(report, 120).columns]
    assert columns == [
        "method", "accuracy", "macro-F1", "seeds", "labeled", "unlabeled", "trainable params", "seconds",
    ]  # fmt: skip
    assert [str(column.header) for column in writer.leaderboard_table(report, 80).columns] == columns[:4]


def test_exact_match_is_a_column_if_a_row_has_it(tmp_path: Path) -> None:
    write_predictions(tmp_path, "soft_labels", [1, 0], test={"exact_match": 0.25})
    write_predictions(tmp_path, "prompts/plots/random/0", [1, 0])
    report = writer.build_report("films", report_on(tmp_path, "soft_labels", "prompts/plots/random/0"), {}, RUN)
    lines = writer.report_markdown(report).splitlines()
    assert "| MCC | exact match | seeds |" in lines[2]
    assert lines[4] == "| ensemble | 50.0 | 25.0 | 0.0 | 25.0 | 1 | 16 | 1,000 | 2.0k |  |"
    assert lines[5] == "| prompts/plots/random | 50.0 | 25.0 | 0.0 |  | 1 | 16 | 1,000 | 2.0k |  |"
    assert "<th>exact match</th>" in writer.report_html(report)


def test_errors_of_ordered_labels_are_columns_in_steps(tmp_path: Path) -> None:
    write_predictions(tmp_path, "soft_labels", [1, 0], test={"mae": 0.5, "qwk": 0.25})
    report = writer.build_report("films", report_on(tmp_path, "soft_labels"), {}, RUN)
    lines = writer.report_markdown(report).splitlines()
    assert "| macro-F1 | MAE | QWK | MCC |" in lines[2]
    assert lines[4].startswith("| ensemble | 50.0 | 25.0 | 0.50 | 0.25 |")


def test_speed_of_the_classifier_to_use_is_reported(tmp_path: Path) -> None:
    write_predictions(tmp_path, "distill/small/0", [1, 0])
    result = report_on(tmp_path, "distill/small/0")
    lines = [
        writer.delivered_line(writer.build_report("films", result, {}, RUN, {}, {"distill/small/0": speed}))
        for speed in (0.0, 1234.5)
    ]
    assert lines[1] == f"{lines[0]} It reads 1,234 texts per second with one thread."


def test_size_of_models_is_a_column_if_a_row_has_one(tmp_path: Path) -> None:
    write_predictions(tmp_path, "soft_labels", [1, 0])
    write_predictions(tmp_path, "distill/small/0", [1, 0])
    result = report_on(tmp_path, "soft_labels", "distill/small/0")
    report = writer.build_report("films", result, {}, RUN, {"distill/small/0": 90_400_000})
    head, _, ensemble, student = writer.report_markdown(report).splitlines()[2:6]
    assert head.endswith("| trainable params | model MB | seconds |")
    assert (ensemble.endswith("|  |  |"), student.endswith("| 90.4 |  |")) == (True, True)


def test_run_line_counts_attempts_if_a_step_had_several() -> None:
    report = {"executed": 3, "cached": 1, "wall_s": 2.0}
    assert writer.run_line(report) == "This run: 3 steps executed, 1 cached, 2 s."
    assert writer.run_line({**report, "attempts": 4}) == "This run: 3 steps executed, 1 cached, 4 attempts, 2 s."
