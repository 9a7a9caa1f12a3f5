"""Tests of the scores of predicted numbers, compared with numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, root_mean_squared_error

from stages.regression.metrics import score_values


def test_score_values_agrees_with_numpy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    right_n = rng.uniform(0, 5, 40)
    predicted_n = np.clip(right_n + rng.normal(0, 1, 40), 0, 5)
    score = score_values(right_n, predicted_n, (0, 5))
    ranks = [np.argsort(np.argsort(values)) for values in (right_n, predicted_n)]
    assert score.pearson == pytest.approx(np.corrcoef(right_n, predicted_n)[0, 1], abs=1e-6)
    if len(np.unique(predicted_n)) == 40:
        assert score.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
    assert score.rmse == pytest.approx(root_mean_squared_error(right_n, predicted_n), abs=1e-6)
    assert score.mae == pytest.approx(mean_absolute_error(right_n, predicted_n), abs=1e-6)
    halves = [values >= 2.5 for values in (right_n, predicted_n)]
    assert score.accuracy == pytest.approx((halves[0] == halves[1]).mean(), abs=1e-6)
    assert score.macro_f1 == pytest.approx(f1_score(*halves, average="macro"), abs=1e-6)
    assert score.num_examples == 40


def test_equal_predictions_have_no_correlation() -> None:
    score = score_values(np.array([1.0, 2.0]), np.array([3.0, 3.0]), (1, 5))
    assert (score.pearson, score.spearman, score.mae) == (0.0, 0.0, 1.5)


def test_different_numbers_of_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 predictions, but 1 right values"):
        score_values(np.array([1.0]), np.array([3.0, 3.0]), (1, 5))
