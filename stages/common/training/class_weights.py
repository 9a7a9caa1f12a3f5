"""Weights of labels in a loss, for labels of very different frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.common.config import ClassWeights


def label_weights(gold: Sequence[int] | NDArray[np.int64], num_labels: int, kind: ClassWeights) -> NDArray[np.float64]:
    """Returns the weight of each label, [C]; the mean over the examples is 1. A label without an example has 1.

    Args:
        gold: [n] indices of the labels.
        num_labels: C.
        kind: none, or balanced: all labels together count the same, as in scikit-learn.
    """
    if kind == "none":
        return np.ones(num_labels)
    counts = np.bincount(np.asarray(gold, dtype=np.int64), minlength=num_labels)
    known = counts > 0
    return np.where(known, len(gold) / (max(known.sum(), 1) * np.maximum(counts, 1)), 1.0)


def example_weights(gold: NDArray[Any], num_labels: int, kind: ClassWeights) -> NDArray[np.float64]:
    """Returns the weight of each example, [n]: the weight of its label.

    Args:
        gold: [n] indices of the labels. With `kind: none` also [n, C] of 0 and 1.
        num_labels: C.
        kind: As for `label_weights`.
    """
    if kind == "none":
        return np.ones(len(gold))
    weights: NDArray[np.float64] = label_weights(gold, num_labels, kind)[gold]
    return weights
