"""Cross-validation on the labeled examples: logits of every example by a model that did not learn from it.

These logits say how good a member of the ensemble is, without a test set and without a dev set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_folds(gold: Sequence[int], num_folds: int, groups: Sequence[int] | None = None) -> Indices | None:
    """Returns the fold of each example, [n], with the examples of each label spread evenly over the folds.

    A label with fewer examples than folds is missing in some folds. The order of the examples decides, nothing is
    random.

    Args:
        gold: [n] indices of the labels.
        num_folds: Number of folds. There are never more than groups, or than examples of the most frequent label.
        groups: [n] numbers. All examples of a number are in one fold. Default: each example is on its own.

    Returns:
        None if no label has two examples, or if there is one group, so nothing can be held out.
    """
    labels = np.asarray(gold, dtype=np.int64)
    num_groups = len(labels) if groups is None else len(set(groups))
    num_folds = min(num_folds, num_groups, int(np.bincount(labels).max(initial=0)))
    if num_folds < 2:
        return None
    if groups is not None and num_groups < len(labels):
        return _folds_of_groups(labels, np.asarray(groups, dtype=np.int64), num_folds)
    fold_of = np.empty(len(labels), dtype=np.int64)
    start = 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold_of[rows] = (start + np.arange(len(rows))) % num_folds
        start += len(rows)
    return fold_of


def _folds_of_groups(labels: Indices, groups: Indices, num_folds: int) -> Indices:
    """Returns the fold of each example. Large groups come first, each in the fold that lacks its labels most."""
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    counts_GC = np.zeros((len(sizes), int(labels.max()) + 1))
    np.add.at(counts_GC, (group_of, labels), 1)
    shares_GC = counts_GC / np.maximum(counts_GC.sum(axis=0), 1)
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    filled_FC, num_in_fold = np.zeros((num_folds, counts_GC.shape[1])), np.zeros(num_folds)
    for group in np.argsort(-sizes, kind="stable"):
        overlaps = filled_FC @ shares_GC[group]
        fold = np.lexsort((num_in_fold, np.round(overlaps, 9)))[0]
        fold_of_group[group] = fold
        filled_FC[fold] += shares_GC[group]
        num_in_fold[fold] += sizes[group]
    return fold_of_group[group_of]


def held_out_logits(
    gold: Sequence[int],
    num_labels: int,
    num_folds: int,
    fit_and_predict: Callable[[int, Indices, Indices], NDArray[np.float64]],
    *,
    groups: Sequence[int] | None = None,
) -> NDArray[np.float64] | None:
    """Returns the logits [n, C] of every example by a model that was fitted on the other folds.

    Args:
        gold: [n] indices of the labels.
        num_labels: C.
        num_folds: Number of folds.
        fit_and_predict: Fits a model for a fold to the rows of the second argument; returns the logits of the rows of
            the third one.
        groups: [n] numbers. All examples of a number are in one fold. Default: each example is on its own.

    Returns:
        None if nothing can be held out.
    """
    fold_of = stratified_folds(gold, num_folds, groups)
    if fold_of is None:
        return None
    logits = np.zeros((len(fold_of), num_labels))
    for fold in range(int(fold_of.max()) + 1):
        is_held_out = fold_of == fold
        logits[is_held_out] = fit_and_predict(fold, np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out))
    return logits
