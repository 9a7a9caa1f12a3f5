"""Tests of the estimate of how frequent labels are among unlabeled examples."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.soft_labels.label_frequencies import estimate_frequencies

SIZE = 4000


def sample(frequencies: list[float], distance: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns logits [n, C] that are right for equally frequent labels, and the labels [n].

    The features of a label have a normal distribution around its own axis at `distance`.
    """
    rng = np.random.default_rng(0)
    num_labels = len(frequencies)
    gold_n = rng.choice(num_labels, SIZE, p=frequencies)
    features_nC = distance * np.eye(num_labels)[gold_n] + rng.normal(size=(SIZE, num_labels))
    return distance * features_nC, gold_n


def equal(num_labels: int) -> NDArray[np.float64]:
    return np.full(num_labels, 1 / num_labels)


@pytest.mark.parametrize("rare", [0.02, 0.1, 0.25])
def test_rare_label_is_found_and_the_predictions_get_better(rare: float) -> None:
    logits_nC, gold_n = sample([rare, 1 - rare], 1.5)
    frequencies_C = estimate_frequencies(logits_nC, equal(2))
    assert frequencies_C.sum() == pytest.approx(1)
    assert rare < frequencies_C[0] < 0.8 * rare + 0.17  # a fifth of the way to 0.5, and a little more
    before, after = (
        float((item.argmax(axis=1) == gold_n).mean()) for item in (logits_nC, logits_nC + np.log(frequencies_C))
    )
    assert after > before


@pytest.mark.parametrize("num_labels", [2, 8, 40])
def test_labels_that_are_about_equally_frequent_stay_equal(num_labels: int) -> None:
    shares = np.linspace(0.95, 1.05, num_labels)
    logits_nC, _ = sample((shares / shares.sum()).tolist(), 1.5)
    assert estimate_frequencies(logits_nC, equal(num_labels)).tolist() == equal(num_labels).tolist()


def test_uncertain_members_do_not_remove_any_of_many_labels() -> None:
    """Probabilities that are less certain than right make plain expectation maximization lose labels."""
    logits_nC, gold_n = sample(equal(20).tolist(), 2.0)
    frequencies_C = estimate_frequencies(logits_nC / 4, equal(20))
    assert frequencies_C.min() > 0.02
    after = float(((logits_nC / 4 + np.log(frequencies_C)).argmax(axis=1) == gold_n).mean())
    assert after > float((logits_nC.argmax(axis=1) == gold_n).mean()) - 0.01


def test_without_unlabeled_examples_the_labeled_frequencies_count() -> None:
    assert estimate_frequencies(np.empty((0, 2)), np.array([0.3, 0.7])).tolist() == [0.3, 0.7]
