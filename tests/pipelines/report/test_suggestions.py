"""What to try next: each rule speaks where its figure says so, names the figure, and is silent otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.report.comparisons import RowComparison
from pipelines.report.leaderboard import MeanStd, Row
from pipelines.report.suggestions import RULES, RunResults, Suggestion, suggest


def row(name: str, kind: str, accuracy: float, std: float | None = None, **more: Any) -> Row:
    about: dict[str, Any] = {
        "task": "films", "macro_f1": MeanStd(mean=accuracy, std=std), "mcc": MeanStd(mean=2 * accuracy - 1, std=None),
        "ece": MeanStd(mean=0.02, std=None), "exact_match": None, "entity_f1": None,
        "num_seeds": 1 if std is None else 3, "num_test": 2000, "num_labeled": 32, "num_unlabeled": 1000,
        "trainable_parameters": 9, "steps": (name,),
    }  # fmt: skip
    return Row(name=name, kind=kind, accuracy=MeanStd(mean=accuracy, std=std), **(about | more))


GOOD = (
    row("baseline", "baseline", 0.70, 0.01),
    row("zero_shot/review", "zero-shot", 0.70),
    row("pet/review", "sub-model", 0.80, 0.01),
    row("pet/critic", "sub-model", 0.82, 0.01),
    row("ensemble", "ensemble", 0.84),
    row("student", "student", 0.83, 0.01),
)
LEAD = RowComparison(
    first="student", second="baseline", difference=0.13, low=0.08, high=0.18, p_value=0.001, num_texts=2000,
    num_seeds=(3, 3),
)  # fmt: skip
RESULTS: dict[str, dict[str, Any]] = {
    "data/films": {"num_test": 2000, "num_test_seen": 3},
    "ppt/pair": {"held_out_before": {"accuracy": 0.4}, "held_out": {"accuracy": 0.6, "num_examples": 90}},
}


def said(
    *rows: Row, duel: RowComparison = LEAD, results: dict[str, dict[str, Any]] | None = None
) -> dict[str, Suggestion]:
    """Rule -> its advice, on a good run in which these rows are other ones."""
    changed = {item.name: item for item in rows}
    board = [changed.pop(item.name, item) for item in GOOD] + list(changed.values())
    return {item.rule: item for item in suggest(RunResults(board, [duel], RESULTS | (results or {})))}


def test_a_good_run_needs_nothing() -> None:
    assert said() == {}


CASES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "leak": ({"results": {"data/films": {"num_test": 2000, "num_test_seen": 40}}}, "data/films", ("40", "2.0%")),
    "small_test": ({"rows": [row("student", "student", 0.83, 0.01, num_test=150)]}, "student", ("150", "± 6.0")),
    "guessing_pattern": ({"rows": [row("zero_shot/review", "zero-shot", 0.52)]}, "zero_shot/review", ("52.0%", "0.04")),
    "worse_by_training": (
        {"rows": [row("zero_shot/review", "zero-shot", 0.835)]},
        "pet/review",
        ("3.5 points", "80.0%", "83.5%"),
    ),
    "ensemble_below_member": (
        {"rows": [row("pet/critic", "sub-model", 0.845, 0.01)]},
        "ensemble",
        ("84.0%", "pet/critic (84.5%)", "pet/review (80.0%)"),
    ),
    "student_below_ensemble": ({"rows": [row("student", "student", 0.79, 0.01)]}, "student", ("5.0 points", "1,000")),
    "student_not_ahead": (
        {"duel": replace(LEAD, difference=0.01, low=-0.02, high=0.04)},
        "student",
        ("+1.0 points", "-2.0 to +4.0"),
    ),
    "large_spread": (
        {"rows": [row("student", "student", 0.83, 0.04), row("baseline", "baseline", 0.7, 0.06)]},
        "baseline",
        ("± 6.0", "3 seeds", "student vary too"),
    ),
    "calibration": (
        {"rows": [row("student", "student", 0.83, 0.01, ece=MeanStd(mean=0.15, std=None))]},
        "student",
        ("15.0 points",),
    ),
    "pretraining": (
        {
            "results": {
                "ppt/pair": {"held_out_before": {"accuracy": 0.38}, "held_out": {"accuracy": 0.4, "num_examples": 90}}
            }
        },
        "ppt/pair",
        ("38.0%", "40.0%", "90"),
    ),
}


def test_every_rule_has_a_case() -> None:
    assert len(CASES) == len(RULES)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_speaks_alone_and_names_its_figure(rule: str) -> None:
    changes, about, figures = CASES[rule]
    found = said(*changes.get("rows", ()), **{key: value for key, value in changes.items() if key != "rows"})
    assert list(found) == [rule]
    assert found[rule].about == about
    assert all(figure in found[rule].because for figure in figures), found[rule].because
    assert found[rule].attempt.endswith(".")


def test_a_gap_within_the_students_own_spread_says_nothing_of_the_teacher() -> None:
    found = said(row("student", "student", 0.79, 0.06))
    assert list(found) == ["large_spread"]


def test_earlier_generations_are_no_members() -> None:
    assert said(row("pet/g1/review", "sub-model", 0.9)) == {}


def test_a_recipe_without_student_ensemble_or_pretraining_is_no_error() -> None:
    assert suggest(RunResults([row("prompts/films/random", "prompt", 0.7)], [], {})) == ()
    assert suggest(RunResults([], [], {})) == ()
