"""Scores of ordered labels: how far predictions are from the right label, not only whether they are right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score


def mean_absolute_error(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Returns the mean number of steps between predicted and right labels, both [n] indices in the order."""
    return round(float(np.abs(truth - predicted).mean()), 6)


def quadratic_kappa(truth: NDArray[np.int64], predicted: NDArray[np.int64], num_labels: int) -> float | None:
    """Returns Cohen's kappa with quadratic weights (Cohen, "Weighted kappa", Psychological Bulletin, 1968).

    None if all examples have, and are predicted to have, the same label: then there is nothing to agree about.

    Args:
        truth: [n] indices of the right labels.
        predicted: [n] indices of the predicted labels.
        num_labels: C.
    """
    if len({*truth.tolist(), *predicted.tolist()}) < 2:
        return None
    return round(float(cohen_kappa_score(truth, predicted, labels=range(num_labels), weights="quadratic")), 6)
