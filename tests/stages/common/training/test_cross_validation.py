"""Tests of cross-validation: the folds, and logits by models that did not see the example."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.common.training.cross_validation import held_out_logits, stratified_folds


def test_folds_have_equally_many_examples_of_each_label() -> None:
    gold = [0] * 8 + [1] * 4
    folds = stratified_folds(gold, 4)
    assert folds is not None
    assert [[int((folds[np.array(gold) == label] == fold).sum()) for fold in range(4)] for label in (0, 1)] == [
        [2, 2, 2, 2],
        [1, 1, 1, 1],
    ]


def test_rare_labels_are_spread_over_the_folds() -> None:
    """Six labels with one example each, and one with four: no fold holds out all rare labels."""
    folds = stratified_folds([0, 0, 0, 0, 1, 2, 3, 4, 5, 6], 4)
    assert folds is not None
    assert np.bincount(folds).tolist() == [3, 3, 2, 2]


def test_there_are_no_more_folds_than_examples_of_a_label() -> None:
    folds = stratified_folds([0, 0, 1, 1], 10)
    assert folds is not None
    assert folds.max() == 1


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_in_one_fold_and_labels_are_spread(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, size=200)
    gold = rng.integers(0, 2, size=200)
    folds = stratified_folds(gold.tolist(), 4, groups.tolist())
    assert folds is not None and set(folds) == {0, 1, 2, 3}
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    for label in (0, 1):
        counts = np.bincount(folds[gold == label], minlength=4)
        assert counts.max() - counts.min() <= 10, "about a quarter of the label each"


def test_groups_of_one_example_change_nothing() -> None:
    gold = [0, 1, 1, 0, 2, 1, 0, 2]
    expected = stratified_folds(gold, 3)
    actual = stratified_folds(gold, 3, list(range(8)))
    assert expected is not None and actual is not None and actual.tolist() == expected.tolist()


def test_one_group_leaves_nothing_to_hold_out() -> None:
    assert stratified_folds([0, 0, 1, 1], 4, [7, 7, 7, 7]) is None
    folds = stratified_folds([0, 0, 1, 1], 4, [7, 7, 7, 8])
    assert folds is not None and folds.max() == 1


@pytest.mark.parametrize("gold", [[], [0, 1, 2]])
def test_nothing_is_held_out_with_one_example_per_label(gold: list[int]) -> None:
    assert stratified_folds(gold, 4) is None
    assert held_out_logits(gold, 3, 4, lambda fold, fitted, held_out: np.zeros((0, 3))) is None


def test_every_example_is_predicted_once_by_a_model_of_the_others() -> None:
    calls: list[int] = []

    def fit_and_predict(fold: int, fitted: NDArray[np.int64], held_out: NDArray[np.int64]) -> NDArray[np.float64]:
        assert not set(fitted) & set(held_out)
        assert len(fitted) + len(held_out) == 6
        calls.append(fold)
        return np.stack([held_out, held_out + 0.5], axis=1)

    logits = held_out_logits([0, 1] * 3, 2, 3, fit_and_predict)
    assert calls == [0, 1, 2]
    assert logits == pytest.approx(np.stack([np.arange(6), np.arange(6) + 0.5], axis=1))
