"""Which classifier the report selects, and the reason that it gives."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.report.delivery import CLASSIFIER_ROWS, Delivered, select_delivered
from pipelines.report.leaderboard import MeanStd, Row


def row(name: str, validated: float | None = None, *, test: float = 0.5, **more: Any) -> Row:
    """A row of the leaderboard with a cross-validated accuracy and an accuracy on the test set."""
    kind, _, student = name.partition("/")
    accuracy = MeanStd(mean=test, std=None)
    values: dict[str, Any] = {
        "task": "films", "macro_f1": accuracy, "mcc": None, "ece": None, "exact_match": None, "entity_f1": None,
        "num_seeds": 1, "num_test": 100, "num_labeled": 100, "num_unlabeled": 0, "trainable_parameters": 10,
        "student": student, "model": "encoder" if student else "", "steps": (name,),
        "num_parameters": None if kind == "probe" else 1000, "held_out_macro_f1": None,
    }  # fmt: skip
    return Row(name=name, kind=kind, accuracy=accuracy, held_out_accuracy=validated, **(values | more))


def delivered(*rows: Row) -> Delivered:
    result = select_delivered(rows)
    assert result is not None
    assert result.reason.endswith(".") and ". " not in result.reason, "one sentence"
    return result


ENSEMBLE = row("ensemble", 0.7)
SMALL, LARGE = row("student/small"), row("student/large", num_parameters=9000)


def test_rows_of_classifiers_are_the_candidates() -> None:
    assert {"student", "baseline", "probe", "fine-tuned", "TF-IDF"} == CLASSIFIER_ROWS
    assert select_delivered([ENSEMBLE, row("sub-model/review", 0.9)]) is None
    assert select_delivered([]) is None


def test_a_single_student_is_delivered() -> None:
    result = delivered(row("baseline/small"), row("probe/mpnet", 0.99), ENSEMBLE, SMALL)
    assert result.row == "student/small"
    assert result.reason == "It is the student, trained on the soft labels of the ensemble."


def test_the_largest_student_is_delivered() -> None:
    for students in ([SMALL, LARGE], [LARGE, SMALL]):
        result = delivered(ENSEMBLE, *students)
        assert result.row == "student/large"
        assert "the largest of 2 students (9,000 parameters)" in result.reason


def test_the_first_of_equally_large_students_is_delivered() -> None:
    result = delivered(ENSEMBLE, SMALL, LARGE, row("student/other", num_parameters=9000))
    assert result.row == "student/large" and "the first of the largest of 3 students" in result.reason


def test_the_size_counts_frozen_parameters() -> None:
    frozen = row("student/frozen", num_parameters=20_000, trainable_parameters=2)
    assert delivered(ENSEMBLE, LARGE, frozen).row == "student/frozen"


def test_word_counts_are_delivered_only_without_a_student_with_an_encoder() -> None:
    words = row("student/words", num_parameters=90_000, model="tfidf")
    assert delivered(ENSEMBLE, SMALL, words).row == "student/small"
    assert delivered(ENSEMBLE, words).row == "student/words"


@pytest.mark.parametrize("test", [0.0, 1.0])
def test_the_test_set_never_decides(test: float) -> None:
    better = {"test": 1.0 - test}
    assert delivered(row("baseline/small", 0.7, **better), ENSEMBLE, row("student/small", test=test)).row == (
        "student/small"
    )
    assert delivered(ENSEMBLE, LARGE, row("student/small", **better)).row == "student/large"
    assert delivered(row("baseline/small", 0.8, test=test), row("probe/mpnet", 0.7, **better)).row == "baseline/small"


@pytest.mark.parametrize(
    ("baseline", "num_labeled", "is_ahead"),
    [
        (0.81, 100, False),  # 0.11 is below twice 0.060
        (0.83, 100, True),  # 0.13 is above twice 0.059
        (0.95, 16, False),
        (0.70, 10_000, False),
        (0.72, 10_000, True),
        (0.60, 10_000, False),
    ],
)
def test_a_baseline_replaces_the_students_if_it_leads_the_ensemble_by_two_standard_errors(
    baseline: float, num_labeled: int, is_ahead: bool
) -> None:
    size = {"num_labeled": num_labeled}
    result = delivered(row("baseline/small", baseline, **size), row("ensemble", 0.7, **size), SMALL)
    assert result.row == ("baseline/small" if is_ahead else "student/small")
    assert f"cross-validation on {num_labeled:,} labeled examples" in result.reason
    assert (f"{baseline:.1%}, significantly above the 70.0% of the ensemble" in result.reason) == is_ahead
    assert ("no baseline is significantly more accurate than the ensemble" in result.reason) != is_ahead


def test_the_best_of_several_baselines_replaces_the_students() -> None:
    baselines = (row("baseline/small", 0.9), row("baseline/large", 0.95), row("baseline/other"))
    assert delivered(*baselines, ENSEMBLE, SMALL, LARGE).row == "baseline/large"


@pytest.mark.parametrize(
    "rows", [(row("baseline/small", 1.0), row("ensemble")), (row("baseline/small"), ENSEMBLE), (ENSEMBLE,)]
)
def test_without_two_cross_validated_accuracies_a_student_is_delivered(rows: tuple[Row, ...]) -> None:
    result = delivered(*rows, SMALL)
    assert result.row == "student/small" and "cross-validation" not in result.reason


def test_without_soft_labels_the_highest_held_out_accuracy_decides() -> None:
    rows = (row("baseline/small", 0.7), row("probe/mpnet", 0.8), row("baseline/large", 0.75))
    result = delivered(*rows)
    assert result.row == "probe/mpnet"
    assert result.reason.startswith("Because no student learns from unlabeled data")
    assert "highest accuracy in cross-validation on 100 labeled examples (80.0%)" in result.reason


def test_with_a_label_bias_the_highest_held_out_macro_f1_decides() -> None:
    constant, useful = row("baseline/small", 0.99, held_out_macro_f1=0.497), row("probe/w", 0.97, held_out_macro_f1=0.7)
    assert delivered(constant, useful).row == "baseline/small"
    result = select_delivered([constant, useful], "macro_f1")
    assert result is not None and result.row == "probe/w"
    assert "highest macro-F1 in cross-validation on 100 labeled examples (70.0%)" in result.reason


def test_without_soft_labels_the_smallest_of_equal_classifiers_is_delivered() -> None:
    rows = (row("baseline/large", 0.8, num_parameters=9000), row("baseline/small", 0.8), row("baseline/x", 0.7))
    result = delivered(*rows)
    assert result.row == "baseline/small" and "the smallest of 2" in result.reason


def test_without_cross_validation_the_first_baseline_is_delivered() -> None:
    probe = row("probe/mpnet")
    result = delivered(probe, row("baseline/small"), row("baseline/large"))
    assert result.row == "baseline/small" and ": the first baseline" in result.reason
    assert delivered(probe, row("probe/other")).row == "probe/mpnet"


def test_the_only_classifier_is_delivered() -> None:
    result = delivered(row("baseline/small", 0.2))
    assert result.row == "baseline/small" and ": the only one" in result.reason
