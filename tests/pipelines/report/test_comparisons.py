"""Comparisons of rows over examples and seeds, and of initializations of prompts."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.report.comparisons import compare_inits, flat_inits, mean_losses
from pipelines.report.leaderboard import MeanStd, Row
from tests.support.reports import report_on, write_predictions


def test_student_is_compared_with_the_baseline_over_examples_and_seeds(tmp_path: Path) -> None:
    steps = {"distill/small/0": 80, "distill/small/1": 90, "baseline/small/0": 50, "baseline/small/1": 30}
    for step, num_correct in steps.items():
        write_predictions(tmp_path, step, [1] * num_correct + [0] * (100 - num_correct))
    result = report_on(tmp_path, "baseline/small/0", "baseline/small/1", "distill/small/0", "distill/small/1")
    (comparison,) = result["comparisons"]
    assert (comparison["first"], comparison["second"]) == ("student/small", "baseline/small")
    assert comparison["difference"] == pytest.approx((80 + 90 - 50 - 30) / 200)
    assert 0.2 < comparison["low"] < 0.35 < 0.55 < comparison["high"] < 0.7
    assert (comparison["num_examples"], comparison["num_seeds"]) == (100, [2, 2])
    low, high = f"{100 * comparison['low']:+.1f}", f"{100 * comparison['high']:+.1f}"
    assert result["notes"] == [
        f"student/small - baseline/small: +45.0 points (95% interval {low} to {high}, p < 0.001, paired "
        "bootstrap over 100 examples and 2 x 2 seeds)."
    ]


def test_each_student_is_compared_with_its_own_baseline(tmp_path: Path) -> None:
    steps = [f"{kind}/{name}/0" for kind in ("baseline", "distill") for name in ("small", "large")]
    for step in [*steps, "distill/alone/0"]:
        write_predictions(tmp_path, step, [1, 0])
    pairs = [(item["first"], item["second"]) for item in report_on(tmp_path, *steps, "distill/alone/0")["comparisons"]]
    assert pairs == [("student/small", "baseline/small"), ("student/large", "baseline/large")]


def test_ensemble_is_compared_with_its_best_member(tmp_path: Path) -> None:
    steps = {"pet/review/0": 60, "pet/review/1": 62, "probe/mpnet": 64, "zero_shot/review": 90, "soft_labels": 64}
    for step, num_correct in steps.items():
        write_predictions(tmp_path, step, [1] * num_correct + [0] * (100 - num_correct))
    result = report_on(tmp_path, *steps)
    (comparison,) = result["comparisons"]
    assert (comparison["first"], comparison["second"], comparison["num_seeds"]) == ("ensemble", "probe/mpnet", [1, 1])
    assert (comparison["difference"], comparison["p_value"]) == (0, 1)
    assert "ensemble - probe/mpnet: +0.0 points (95% interval +0.0 to +0.0, p = 1.000," in result["notes"][0]


def test_examples_are_paired_by_uid_not_by_line(tmp_path: Path) -> None:
    uids = [f"test-{number}" for number in range(40)]
    write_predictions(tmp_path, "distill/small/0", [1] * 30 + [0] * 10, uids=uids)
    write_predictions(tmp_path, "baseline/small/0", [0] * 10 + [1] * 30, uids=uids[::-1])
    (comparison,) = report_on(tmp_path, "baseline/small/0", "distill/small/0")["comparisons"]
    assert (comparison["low"], comparison["high"], comparison["p_value"]) == (0, 0, 1)


def test_rows_with_other_examples_or_without_predictions_are_not_compared(tmp_path: Path) -> None:
    write_predictions(tmp_path, "distill/small/0", [1, 1, 0])
    write_predictions(tmp_path, "baseline/small/0", [1, 1, 0], uids=["test-0", "test-1", "other"])
    write_predictions(tmp_path, "soft_labels", [1, 1, 0])
    write_predictions(tmp_path, "probe/mpnet", [1, 0, 0])
    (tmp_path / "probe/mpnet/test_logits.jsonl").unlink()
    result = report_on(tmp_path, "baseline/small/0", "distill/small/0", "soft_labels", "probe/mpnet")
    assert result["comparisons"] == result["notes"] == []


INITS = {"ppt": "ppt", "random": "normal", "long": "normal"}


def prompt_row(name: str, mean: float, std: float | None = 0.01) -> Row:
    spread = MeanStd(mean=mean, std=std)
    return Row(
        name=name, kind="prompt", task=name.split("/")[1], accuracy=spread, macro_f1=spread, mcc=None, ece=None,
        exact_match=None, entity_f1=None, num_seeds=2, num_test=9, num_labeled=4, num_unlabeled=0,
        trainable_parameters=1, student="", model="", num_parameters=None, held_out_accuracy=None,
        held_out_macro_f1=None, steps=(f"{name}/0", f"{name}/1"),
    )  # fmt: skip


PROMPT_ROWS = (
    prompt_row("prompts/films/ppt", 0.8),
    prompt_row("prompts/films/random", 0.7, None),
    prompt_row("prompts/books/random", 0.6),
)
CURVES = {"prompts/films/ppt": {"a/0": [(1, 0.9), (2, 0.5)], "a/1": [(1, 0.7), (2, 0.3)]}}


def test_tasks_with_several_inits_are_compared() -> None:
    ppt, random = compare_inits(PROMPT_ROWS, INITS, CURVES)
    assert (ppt.task, ppt.method, ppt.init) == ("films", "ppt", "ppt")
    assert (random.task, random.method, random.init) == ("films", "random", "normal")
    assert (ppt.accuracy, ppt.accuracy_std, ppt.num_seeds) == (0.8, 0.01, 2)
    assert (ppt.first_loss, ppt.last_loss) == pytest.approx((0.8, 0.4))
    assert random.losses == () and random.last_loss is None
    assert all("losses" not in row for row in flat_inits([asdict(ppt), asdict(random)]))


def test_methods_with_the_same_init_are_not_compared() -> None:
    same_init = (prompt_row("prompts/films/random", 0.8), prompt_row("prompts/films/long", 0.7))
    assert compare_inits(same_init, INITS, {}) == ()
    assert compare_inits(tuple(replace(row, kind="baseline") for row in PROMPT_ROWS), INITS, {}) == ()


def test_mean_loss_covers_the_steps_that_all_seeds_have() -> None:
    assert mean_losses({"a": [(1, 1.0), (2, 3.0)], "b": [(1, 2.0)]}) == ((1, 1.5),)
    assert mean_losses({}) == ()
