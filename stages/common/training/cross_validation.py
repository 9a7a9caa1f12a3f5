"""Cross-validation on the labeled examples: logits of every example by a model that did not learn from it.

These logits say how good a member of the ensemble is, without a test set and without a dev set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_folds(gold: Sequence[int], num_folds: int) -> Indices | None:
    """Returns the fold of each example, [n], with the examples of each label spread evenly over the folds.

    A label with fewer examples than folds is missing in some folds. The order of the examples decides, nothing is
    random.

    Args:
        gold: [n] indices of the labels.
        num_folds: Number of folds. There are never more than the most frequent label has examples.

    Returns:
        None if no label has two examples, so nothing can be held out.
    """
    labels = np.asarray(gold, dtype=np.int64)
    num_folds = min(num_folds, int(np.bincount(labels).max(initial=0)))
    if num_folds < 2:
        return None
    fold_of = np.empty(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold_of[rows] = (start + np.arange(len(rows))) % num_folds
        start += len(rows)
    return fold_of


def held_out_logits(
    gold: Sequence[int],
    num_labels: int,
    num_folds: int,
    fit_and_predict: Callable[[int, Indices, Indices], NDArray[np.float64]],
) -> NDArray[np.float64] | None:
    """Returns the logits [n, C] of every example by a model that was fitted on the other folds.

    Args:
        gold: [n] indices of the labels.
        num_labels: C.
        num_folds: Number of folds.
        fit_and_predict: Fits a model for a fold to the rows of the second argument; returns the logits of the rows of
            the third one.

    Returns:
        None if nothing can be held out.
    """
    fold_of = stratified_folds(gold, num_folds)
    if fold_of is None:
        return None
    logits = np.zeros((len(fold_of), num_labels))
    for fold in range(int(fold_of.max()) + 1):
        is_held_out = fold_of == fold
        logits[is_held_out] = fit_and_predict(fold, np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))
    return logits
