"""Suggestions: each rule applies only if its number is large enough, and its evidence has the number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipelines.report.comparisons import RowComparison
from pipelines.report.leaderboard import MeanStd, Row
from pipelines.report.suggestions import RULES, RunResults, Suggestion, suggest
from tests.support.reports import measured

STEPS = {"ensemble": "soft_labels", "student/small": "distill/small/0"}


def row(name: str, kind: str, accuracy: float, std: float | None = None, **more: Any) -> Row:
    values: dict[str, Any] = {
        "task": "films", "macro_f1": MeanStd(mean=accuracy, std=std), "mcc": MeanStd(mean=2 * accuracy - 1, std=None),
        "ece": MeanStd(mean=0.02, std=None), "exact_match": None, "entity_f1": None,
        "num_seeds": 1 if std is None else 3, "num_test": 2000, "num_labeled": 32, "num_unlabeled": 1000,
        "trainable_parameters": 9, "student": name.partition("/")[2] if kind in ("student", "baseline") else "",
        "model": "encoder" if kind in ("student", "baseline") else "",
        "num_parameters": None, "held_out_accuracy": None, "held_out_macro_f1": None,
        "steps": (STEPS.get(name) or (name if "zero" in name else f"{name}/0"),),
    }  # fmt: skip
    return Row(name=name, kind=kind, accuracy=MeanStd(mean=accuracy, std=std), **(values | more))


GOOD = (
    row("baseline/small", "baseline", 0.70, 0.01),
    row("zero_shot/review", "zero-shot", 0.70),
    row("pet/review", "sub-model", 0.80, 0.01),
    row("pet/critic", "sub-model", 0.82, 0.01),
    row("ensemble", "ensemble", 0.84),
    row("student/small", "student", 0.83, 0.01),
)
LEAD = RowComparison(
    first="student/small", second="baseline/small", difference=0.13, low=0.08, high=0.18, p_value=0.001,
    num_examples=2000, num_seeds=(3, 3),
)  # fmt: skip
RESULTS: dict[str, dict[str, Any]] = {
    "data/films": {"num_test": 2000, "num_test_seen": 3},
    "ppt/pair": {"held_out_before": {"accuracy": 0.4}, "held_out": {"accuracy": 0.6, "num_examples": 90}},
}


def run_results(rows: Sequence[Row], comparison: RowComparison, results: dict[str, dict[str, Any]]) -> RunResults:
    steps = [*results, *(step for item in rows for step in item.steps)]
    known = {name: {} for name in steps} | results
    return RunResults(rows, [comparison], {name: measured(name) for name in steps}, known)


def suggestions(
    *rows: Row, comparison: RowComparison = LEAD, results: dict[str, dict[str, Any]] | None = None
) -> dict[str, Suggestion]:
    """Rule -> its suggestion, for a good run in which these rows and results are replaced."""
    changed = {item.name: item for item in rows}
    board = [changed.pop(item.name, item) for item in GOOD] + list(changed.values())
    return {item.rule: item for item in suggest(run_results(board, comparison, RESULTS | (results or {})))}


def test_good_run_has_no_suggestions() -> None:
    assert suggestions() == {}


def labeled(num_unlabeled: int = 2000, **agreement: float | None) -> dict[str, Any]:
    """A result of the soft-label step with this agreement of its members."""
    return {"test": {"num_examples": 2000}, "num_unlabeled": num_unlabeled, "agreement": agreement}


CASES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "leak": ({"results": {"data/films": {"num_test": 2000, "num_test_seen": 40}}}, "data/films", ("40", "2.0%")),
    "small_test": (
        {"rows": [row("student/small", "student", 0.83, 0.01, num_test=150)]},
        "student/small",
        ("150", "± 6.0"),
    ),
    "other_domain": (
        {"results": {"soft_labels": labeled(test=0.9, unlabeled=0.8)}},
        "soft_labels",
        ("90.0%", "80.0%"),
    ),
    "other_frequencies": (
        {
            "results": {
                "soft_labels": labeled(test=0.9, unlabeled=0.9)
                | {
                    "label_frequencies": [
                        {"label": "rotten", "labeled": 0.5, "unlabeled": 0.12},
                        {"label": "fresh", "labeled": 0.5, "unlabeled": 0.88},
                    ]
                }
            }
        },
        "soft_labels",
        ("88%", "'fresh'", "50%"),
    ),
    "constant_predictions": (
        {
            "rows": [row("student/small", "student", 0.99, 0.01, macro_f1=MeanStd(mean=0.5, std=None))],
            "results": {
                "data/films": {
                    "num_test": 2000,
                    "num_test_seen": 3,
                    "num_train": 1000,
                    "label_counts": {"train": {"rotten": 990, "fresh": 10}, "test": {"rotten": 1980, "fresh": 20}},
                }
            },
        },
        "student/small",
        ("always predicting 'rotten'", "50.0%", "49.7%", "99.0%"),
    ),
    "rare_labels": (
        {
            "rows": [row("student/small", "student", 0.99, 0.01, macro_f1=MeanStd(mean=0.497, std=None))],
            "results": {
                "data/films": {
                    "num_test": 2000,
                    "num_test_seen": 3,
                    "num_train": 1000,
                    "label_counts": {"train": {"rotten": 990, "fresh": 10}},
                }
            },
        },
        "student/small",
        ("99.0%", "49.7%", "10 of 1,000", "'fresh'"),
    ),
    "cut_texts": ({"results": {"distill/small/0": {"fraction_cut": 0.25}}}, "student/small", ("25.0%",)),
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
    "student_below_ensemble": (
        {"rows": [row("student/small", "student", 0.79, 0.01)]},
        "student/small",
        ("5.0 points", "1,000"),
    ),
    "few_unlabeled": (
        {"rows": [row("student/small", "student", 0.83, 0.01, num_unlabeled=49)]},
        "student/small",
        ("49", "50"),
    ),
    "student_not_ahead": (
        {"comparison": replace(LEAD, difference=0.01, low=-0.02, high=0.04)},
        "student/small",
        ("+1.0 points", "-2.0 to +4.0"),
    ),
    "large_spread": (
        {"rows": [row("student/small", "student", 0.83, 0.04), row("baseline/small", "baseline", 0.7, 0.06)]},
        "baseline/small",
        ("± 6.0", "3 seeds", "student/small also vary"),
    ),
    "calibration": (
        {"rows": [row("student/small", "student", 0.83, 0.01, ece=MeanStd(mean=0.15, std=None))]},
        "student/small",
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


def suggestions_of(changes: dict[str, Any]) -> dict[str, Suggestion]:
    """Returns the suggestions of a case."""
    return suggestions(*changes.get("rows", ()), **{key: value for key, value in changes.items() if key != "rows"})


def test_each_rule_has_a_case() -> None:
    assert len(CASES) == len(RULES)


@pytest.mark.parametrize("rule", CASES)
def test_rule_applies_alone_and_has_its_number(rule: str) -> None:
    changes, subject, numbers = CASES[rule]
    by_rule = suggestions_of(changes)
    assert list(by_rule) == [rule]
    assert by_rule[rule].subject == subject
    assert all(number in by_rule[rule].evidence for number in numbers), by_rule[rule].evidence
    assert by_rule[rule].action.endswith(".")


@pytest.mark.parametrize(
    "result",
    [
        labeled(test=0.9, unlabeled=0.86),
        labeled(num_unlabeled=20, test=0.9, unlabeled=0.8),
        labeled(test=0.8, unlabeled=0.9),
        labeled(test=0.9, unlabeled=None),
    ],
)
def test_agreement_about_the_unlabeled_set_may_vary(result: dict[str, Any]) -> None:
    assert suggestions(results={"soft_labels": result}) == {}


def test_rules_cover_every_student() -> None:
    far = row("student/large", "student", 0.70, 0.01, ece=MeanStd(mean=0.2, std=None), steps=("distill/large/0",))
    by_rule = suggestions(far)
    assert {rule: item.subject for rule, item in by_rule.items()} == {
        "student_below_ensemble": "student/large", "calibration": "student/large",
    }  # fmt: skip


def test_gap_within_the_deviation_of_the_student_is_ignored() -> None:
    assert list(suggestions(row("student/small", "student", 0.79, 0.06))) == ["large_spread"]


def test_only_the_last_generation_has_members() -> None:
    last = [row(f"pet/g1/{pattern}", "sub-model", 0.83) for pattern in ("review", "critic")]
    assert suggestions(row("pet/review", "sub-model", 0.9), *last) == {}
    best = row("pet/g1/review", "sub-model", 0.9)
    assert list(suggestions(best, last[1])) == ["ensemble_below_member"]


def test_report_without_student_ensemble_or_pretraining_has_no_suggestions() -> None:
    assert suggest(run_results([row("prompts/films/random", "prompt", 0.7)], LEAD, {})) == ()
    assert suggest(RunResults([], [], {}, {})) == ()


def test_classifiers_with_a_label_bias_need_more_labels_of_rare_labels() -> None:
    case = CASES["rare_labels"][0]
    results = run_results(case["rows"], LEAD, RESULTS | case["results"])
    actions = {bias: suggest(replace(results, label_bias=bias))[0].action for bias in ("none", "macro_f1")}
    assert actions["none"] == "Set label_bias: macro_f1." and "Label more texts" in actions["macro_f1"]


def test_wrong_or_useless_results_are_warnings() -> None:
    warnings = {rule for rule, (changes, _, _) in CASES.items() if suggestions_of(changes)[rule].is_warning}
    assert warnings == {"leak", "constant_predictions"}
