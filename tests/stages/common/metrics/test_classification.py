"""Tests of classification metrics, compared with computations of a few lines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.common.metrics.classification import per_class_report, score, softmax


def test_macro_f1_is_the_mean_over_labels() -> None:
    """Gold a a a b c, predicted a a b b a. F1: a 2*2/(2*2+1+1), b 2*1/(2*1+1+0), c 0."""
    logits = np.eye(3)[[0, 0, 1, 1, 0]]
    actual = score(logits, ["a", "a", "a", "b", "c"], ["a", "b", "c"])
    assert actual.accuracy == 0.6
    assert actual.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 0) / 3, abs=1e-6)
    assert actual.num_examples == 5


def test_macro_f1_counts_an_absent_label_as_zero() -> None:
    assert score(np.eye(3)[[0, 1]], ["a", "b"], ["a", "b", "c"]).macro_f1 == pytest.approx(2 / 3, abs=1e-6)


def test_mcc_follows_from_the_confusion_matrix() -> None:
    """85 of 90 and 4 of 10 correct: (85 * 4 - 6 * 5) / sqrt(91 * 90 * 9 * 10); a constant prediction has 0."""
    predicted = [0] * 85 + [1] * 5 + [0] * 6 + [1] * 4
    gold = ["a"] * 90 + ["b"] * 10
    actual = score(np.eye(2)[predicted], gold, ["a", "b"])
    assert actual.mcc == pytest.approx((85 * 4 - 6 * 5) / math.sqrt(91 * 90 * 9 * 10), abs=1e-6)
    always = score(np.eye(2)[[0] * 100], gold, ["a", "b"])
    assert (always.accuracy, always.mcc) == (0.9, 0)
    assert score(np.eye(2)[[1, 0]], ["a", "b"], ["a", "b"]).mcc == -1


def test_exact_match_counts_groups_with_only_correct_examples() -> None:
    logits = np.eye(2)[[0, 1, 0, 0, 1]]
    gold = ["a", "b", "b", "a", "b"]  # the third is wrong
    assert score(logits, gold, ["a", "b"], ["q1", "q2", "q1", "q3", "q2"]).exact_match == pytest.approx(2 / 3, abs=1e-6)
    assert score(logits, gold, ["a", "b"], ["q1", "q2", "q3", "q4", "q5"]).exact_match == 0.8


def test_exact_match_is_none_without_groups() -> None:
    logits, gold = np.eye(2)[[0, 1]], ["a", "b"]
    assert score(logits, gold, ["a", "b"]).exact_match is None
    assert score(logits, gold, ["a", "b"], [None, None]).exact_match is None


def test_per_class_report_has_one_row_per_label() -> None:
    """Gold a a a b c, predicted a a b b a."""
    table = per_class_report(np.eye(3)[[0, 0, 1, 1, 0]], ["a", "a", "a", "b", "c"], ["a", "b", "c"])
    third = pytest.approx(2 / 3, abs=1e-6)
    assert table == [
        {"label": "a", "precision": third, "recall": third, "f1": third, "support": 3}
        | {"predicted a": 2, "predicted b": 1, "predicted c": 0},
        {"label": "b", "precision": 0.5, "recall": 1, "f1": third, "support": 1}
        | {"predicted a": 0, "predicted b": 1, "predicted c": 0},
        {"label": "c", "precision": 0, "recall": 0, "f1": 0, "support": 1}
        | {"predicted a": 1, "predicted b": 0, "predicted c": 0},
    ]


def test_softmax_handles_large_logits() -> None:
    assert softmax(np.array([[1000.0, 1000.0 + math.log(3)]])) == pytest.approx(np.array([[0.25, 0.75]]))


def test_score_rejects_another_number_of_gold_labels() -> None:
    with pytest.raises(ValueError, match="2 predictions, but 1 gold labels"):
        score(np.zeros((2, 2)), ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="2 predictions, but 1 gold labels"):
        per_class_report(np.zeros((2, 2)), ["a"], ["a", "b"])
