"""Scores of ordered labels, compared with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from stages.common.metrics.ordinal import mean_absolute_error, quadratic_kappa
from stages.common.problems import OrderedLabels, SingleLabel, problem_of

LABELS = ("1", "2", "3", "4", "5")
PROBLEM = OrderedLabels(LABELS)


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 5))
    truth = rng.integers(5, size=60)
    score = PROBLEM.score(logits, [LABELS[index] for index in truth])
    predicted = logits.argmax(axis=1)
    assert score.mae == pytest.approx(metrics.mean_absolute_error(truth, predicted), abs=1e-6)
    assert score.qwk == pytest.approx(metrics.cohen_kappa_score(truth, predicted, weights="quadratic"), abs=1e-6)
    unordered = SingleLabel(LABELS).score(logits, [LABELS[index] for index in truth])
    assert (unordered.mae, unordered.qwk) == (None, None)
    assert (score.accuracy, score.macro_f1) == (unordered.accuracy, unordered.macro_f1)


def test_errors_count_by_their_distance() -> None:
    truth = np.array([0, 1, 2, 3])
    near, far = np.array([1, 1, 2, 3]), np.array([3, 1, 2, 3])
    assert (mean_absolute_error(truth, near), mean_absolute_error(truth, far)) == (0.25, 0.75)
    near_kappa, far_kappa = quadratic_kappa(truth, near, 4), quadratic_kappa(truth, far, 4)
    assert near_kappa is not None and far_kappa is not None and near_kappa > far_kappa


def test_kappa_of_a_single_label_is_undefined() -> None:
    assert quadratic_kappa(np.array([2, 2]), np.array([2, 2]), 5) is None


def test_similarity_falls_with_the_distance() -> None:
    gold = PROBLEM.gold(["1", "3", "5"])
    assert PROBLEM.similarities(gold).tolist() == [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]
    assert SingleLabel(LABELS).similarities(gold).tolist() == np.eye(3).tolist()


def test_ordered_labels_are_predicted_like_others() -> None:
    problem = problem_of(LABELS, "ordinal_classification")
    assert isinstance(problem, OrderedLabels)
    assert problem.names(problem.predict(np.eye(5)[[4, 0]])) == ["5", "1"]
