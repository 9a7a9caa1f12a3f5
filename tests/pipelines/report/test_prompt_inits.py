"""Starts of prompts side by side, and accuracy against labels: in the report and on its page."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.canonical_json import plain
from pipelines.report import stage as report
from pipelines.report.comparisons import compare_inits, flat_inits, mean_losses
from pipelines.report.config import ReportConfig
from pipelines.report.leaderboard import MeanStd, Row
from pipelines.report.page import html, writer
from stages.common.data.step_outputs import write_losses
from stages.common.engine import InProcessEngine
from stages.common.protocols import NullRecorder
from stages.learning_curve import stage as learning_curve
from stages.learning_curve.config import LearningCurveConfig

STARTS = {"ppt": "ppt", "random": "normal", "long": "normal"}


def row(name: str, mean: float, std: float | None = 0.01) -> Row:
    spread = MeanStd(mean=mean, std=std)
    return Row(
        name=name, kind="prompt", task=name.split("/")[1], accuracy=spread, macro_f1=spread, mcc=None, ece=None,
        exact_match=None, entity_f1=None, num_seeds=2, num_test=9, num_labeled=4, num_unlabeled=0,
        trainable_parameters=1, steps=(f"{name}/0", f"{name}/1"),
    )  # fmt: skip


ROWS = (row("prompts/films/ppt", 0.8), row("prompts/films/random", 0.7, None), row("prompts/books/random", 0.6))
CURVES = {"prompts/films/ppt": {"a/0": [(1, 0.9), (2, 0.5)], "a/1": [(1, 0.7), (2, 0.3)]}}


def test_tasks_with_several_starts_are_compared_and_others_are_not() -> None:
    found = compare_inits(ROWS, STARTS, CURVES)
    assert [(item.task, item.method, item.start) for item in found] == [
        ("films", "ppt", "ppt"), ("films", "random", "normal"),
    ]  # fmt: skip
    assert (found[0].accuracy, found[0].accuracy_std, found[0].num_seeds) == (0.8, 0.01, 2)
    assert (found[0].first_loss, found[0].last_loss) == pytest.approx((0.8, 0.4))
    assert found[1].losses == () and found[1].last_loss is None


def test_methods_that_start_alike_are_no_comparison() -> None:
    alike = (row("prompts/films/random", 0.8), row("prompts/films/long", 0.7))
    assert compare_inits(alike, STARTS, {}) == ()
    others = tuple(replace(item, kind="baseline") for item in ROWS)
    assert compare_inits(others, STARTS, {}) == ()


def test_the_mean_loss_is_of_the_steps_that_all_seeds_have() -> None:
    assert mean_losses({"a": [(1, 1.0), (2, 3.0)], "b": [(1, 2.0)]}) == ((1, 1.5),)
    assert mean_losses({}) == ()


def test_the_page_has_a_table_and_a_line_for_each_start() -> None:
    compared = [asdict(item) for item in compare_inits(ROWS, STARTS, CURVES)]
    (shown,) = html.prompt_inits(compared)
    assert [item["cells"] for item in shown["rows"]] == [
        ("ppt", "ppt", "80.0 ± 1.0", "0.400"), ("random", "normal", "70.0", ""),
    ]  # fmt: skip
    assert len({item["colour"] for item in shown["rows"]}) == 2
    assert str(shown["chart"]).count("<polyline") == 2
    assert all("losses" not in item for item in flat_inits(compared))


def test_accuracy_against_labels_has_a_column_for_each_number_and_whiskers() -> None:
    points = [
        {"method": "baseline", "num_labeled": 4, "accuracy": 0.5, "accuracy_std": 0.1, "num_seeds": 2},
        {"method": "baseline", "num_labeled": 16, "accuracy": 0.75, "accuracy_std": None, "num_seeds": 2},
    ]
    shown = html.learning_curve(points)
    assert shown is not None
    assert shown["sizes"] == [4, 16]
    assert shown["rows"][0]["cells"] == ("baseline", "50.0 ± 10.0", "75.0")
    assert str(shown["chart"]).count('<line class="s0"') == 1, "one point has a deviation"
    assert html.learning_curve([]) is None


def put(root: Path, step: str, result: dict[str, Any], losses: list[float] | None = None) -> None:
    (root / step).mkdir(parents=True)
    (root / step / "result.json").write_text(json.dumps(result))
    write_losses(root / step, losses or [])


def scored(accuracy: float) -> dict[str, Any]:
    test = {"accuracy": accuracy, "macro_f1": accuracy, "num_examples": 8}
    return {"test": test, "num_labeled": 4, "num_unlabeled": 0, "trainable_parameters": 1}


def test_a_report_has_both_in_its_files_its_json_and_its_page(tmp_path: Path) -> None:
    put(tmp_path, "prompts/films/ppt/0", scored(0.75), [0.7, 0.2])
    put(tmp_path, "prompts/films/random/0", scored(0.5), [0.9, 0.6])
    few, more = ({"num_labeled": size, "test": {"accuracy": accuracy}} for size, accuracy in ((4, 0.5), (8, 0.625)))
    put(tmp_path, "few", few)
    put(tmp_path, "more", more)
    drawn = tmp_path / "learning_curve/picture"
    drawn.mkdir(parents=True)
    curve = learning_curve.run(
        LearningCurveConfig(methods=("baseline", "baseline")),
        learning_curve.Inputs(measured=(tmp_path / "few", tmp_path / "more")),
        drawn, NullRecorder(), InProcessEngine(),
    )  # fmt: skip
    (drawn / "result.json").write_text(json.dumps(plain(curve)))

    names = ("prompts/films/ppt/0", "prompts/films/random/0", "learning_curve/picture")
    out = tmp_path / "out"
    out.mkdir()
    config = ReportConfig(recipe="films", task="films", steps=names, starts=STARTS)
    inputs = report.Inputs(measured=tuple(tmp_path / name for name in names))
    found = report.run(config, inputs, out, NullRecorder(), InProcessEngine())
    assert [row.name for row in found.rows] == ["prompts/films/ppt", "prompts/films/random"], "a curve is no row"
    assert {"leaderboard.png", "starts-films.png", "learning_curve.png"} <= {path.name for path in out.iterdir()}

    content = writer.build_report("films", plain(found), {}, {"executed": 3, "cached": 0, "wall_s": 1.0})
    assert [item["last_loss"] for item in content[compare_inits]] == [0.2, 0.6]
    assert [point["accuracy"] for point in content["learning_curve"]] == [0.5, 0.625]
    text = writer.report_html(content)
    assert "<h2>Starts of the prompts</h2>" in text and "<h2>Accuracy against the number of labels</h2>" in text
    marked = writer.report_markdown(content)
    assert "| labelled texts | 4 | 8 |" in marked and "| baseline | 50.0 | 62.5 |" in marked
    assert "## Where the prompts of films start" in marked and "| 0.200 |" in marked
    without = writer.report_html(content | {"starts": [], "learning_curve": []})
    assert "Starts of the prompts" not in without and "Accuracy against the number" not in without
