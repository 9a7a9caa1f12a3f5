"""Tests of the bias per label: compared with a search over all thresholds, and with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from stages.common.errors import InputError
from stages.common.training.label_bias import MIN_POSITIVES, THRESHOLD_TOLERANCE, TOLERANCE, fit_label_bias


def rare(num: int = 1000, share: float = 0.02, strength: float = 2.0) -> tuple[np.ndarray, list[int]]:
    """Returns calibrated logits [num, 2] that never prefer the rare second label, and the gold labels."""
    rng = np.random.default_rng(0)
    gold = (rng.random(num) < share).astype(int)
    evidence = rng.normal(strength * (2 * gold - 1) / 2, 1.0)
    log_odds = strength * evidence + np.log(share / (1 - share))
    return np.stack([-log_odds / 2, log_odds / 2], axis=1), gold.tolist()


def macro_f1(logits: np.ndarray, gold: list[int]) -> float:
    return float(f1_score(gold, logits.argmax(axis=1), average="macro"))


def test_bias_is_nearly_the_best_of_all_thresholds() -> None:
    logits, gold = rare()
    odds = logits[:, 1] - logits[:, 0]
    best = max(f1_score(gold, odds >= threshold, average="macro") for threshold in odds)
    bias = fit_label_bias(logits, gold)
    assert bias[1] > 0 and bias.sum() == pytest.approx(0)
    assert macro_f1(logits + bias, gold) > macro_f1(logits, gold) + 0.05
    assert macro_f1(logits + bias, gold) == pytest.approx(best, abs=0.02)


def test_balanced_labels_have_no_bias() -> None:
    logits, _ = rare()
    assert fit_label_bias(logits, [0, 1] * 500).tolist() == [0.0, 0.0]


def test_a_gain_within_the_tolerance_is_ignored() -> None:
    gold = [0] * 900 + [1] * 100
    logits = np.eye(2)[gold] * 2.0
    assert fit_label_bias(logits, gold).tolist() == [0.0, 0.0]
    logits[900] = [0.02, 0.0]  # one error in 1,000
    assert 0 < macro_f1(np.eye(2)[gold], gold) - macro_f1(logits, gold) < TOLERANCE
    assert fit_label_bias(logits, gold).tolist() == [0.0, 0.0]


def test_balanced_training_weights_are_taken_back() -> None:
    logits, gold = rare()
    frequencies = np.bincount(gold) / len(gold)
    assert fit_label_bias(logits - 2 * np.log(frequencies), gold)[1] < 0


def test_rarer_labels_have_a_higher_bias() -> None:
    rng = np.random.default_rng(1)
    gold = rng.choice(4, size=2000, p=[0.9, 0.07, 0.03, 0.0])
    logits = rng.normal(size=(2000, 4)) + 2.0 * np.eye(4)[gold] + np.log([0.9, 0.07, 0.03, 1e-3])
    bias = fit_label_bias(logits, gold.tolist())
    assert bias[0] < bias[1] < bias[2] < bias[3] < 10, "also a label without examples has one"


def test_without_held_out_logits_raises() -> None:
    with pytest.raises(InputError, match="no labeled example can be held out"):
        fit_label_bias(None, [0, 1])


def label_sets(num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [num, 2] of two labels that are too low by 2 and too high by 1, and the gold labels, [num, 2]."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(num, 2)) * 2
    gold = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    return logits + np.array([-2.0, 1.0]), gold


def test_bias_of_label_sets_is_the_best_threshold_of_each_label() -> None:
    logits, gold = label_sets()
    bias = fit_label_bias(logits, gold)
    for label in range(2):
        best = max(f1_score(gold[:, label], logits[:, label] >= threshold) for threshold in logits[:, label])
        assert f1_score(gold[:, label], logits[:, label] + bias[label] > 0) >= best - 2 * THRESHOLD_TOLERANCE
    assert bias[0] > 1 > bias[1]


def test_threshold_stays_with_few_positive_or_negative_examples() -> None:
    logits, gold = label_sets()
    few = gold.copy()
    few[np.flatnonzero(gold[:, 0])[MIN_POSITIVES - 1 :], 0] = 0
    few[np.flatnonzero(gold[:, 1] == 0)[MIN_POSITIVES - 1 :], 1] = 1
    assert fit_label_bias(logits, few).tolist() == [0.0, 0.0]


def test_frequency_bias_predicts_a_label_as_often_as_it_is_right() -> None:
    logits, gold = label_sets()
    bias = fit_label_bias(logits, gold, "frequencies")
    assert (logits + bias > 0).sum(axis=0).tolist() == gold.sum(axis=0).tolist()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_frequency_bias_of_a_label_that_none_or_all_have(value: float) -> None:
    logits, gold = label_sets()
    gold[:, 1] = value
    assert fit_label_bias(logits, gold, "frequencies")[1] == 0
