"""Scores of predicted numbers: correlations and errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score

from stages.common.metrics.classification import Score


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressionScore(Score):
    """Metrics of predicted numbers. GLUE reports both correlations for STS-B.

    `accuracy` and `macro_f1` are of the question whether a value is in the upper half of the range. `mae` is the mean
    absolute error, in the unit of the values.
    """

    pearson: float
    """Pearson correlation, -1 to 1; 0 if all predictions or all right values are equal."""
    spearman: float
    """Spearman rank correlation, -1 to 1; 0 in the same cases."""
    rmse: float
    """Root of the mean squared error, in the unit of the values."""


def score_values(
    right_n: NDArray[np.float64], predicted_n: NDArray[np.float64], value_range: tuple[float, float]
) -> RegressionScore:
    """Compares predicted with right values, both [n].

    Raises:
        ValueError: their numbers differ.
    """
    if len(right_n) != len(predicted_n):
        raise ValueError(f"{len(predicted_n)} predictions, but {len(right_n)} right values.")
    middle = (value_range[0] + value_range[1]) / 2
    is_upper_n, predicted_upper_n = right_n >= middle, predicted_n >= middle
    errors_n = predicted_n - right_n
    varies = np.ptp(right_n) > 0 and np.ptp(predicted_n) > 0
    return RegressionScore(
        accuracy=round(float((is_upper_n == predicted_upper_n).mean()), 6),
        macro_f1=round(
            float(f1_score(is_upper_n, predicted_upper_n, labels=[False, True], average="macro", zero_division=0)), 6
        ),
        mcc=None,
        ece=None,
        exact_match=None,
        num_examples=len(right_n),
        mae=round(float(np.abs(errors_n).mean()), 6),
        pearson=round(float(pearsonr(right_n, predicted_n).statistic), 6) if varies else 0.0,
        spearman=round(float(spearmanr(right_n, predicted_n).statistic), 6) if varies else 0.0,
        rmse=round(float(np.sqrt((errors_n**2).mean())), 6),
    )
