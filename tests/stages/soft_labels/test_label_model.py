"""Tests of the accuracies that the unlabeled data adds to those of few labels."""

from __future__ import annotations

import numpy as np
import pytest

from stages.soft_labels.label_model import AGREEMENT_EXAMPLES, estimate_accuracies

GROUPS = ("a", "b", "c", "d")
ACCURACIES = np.array([0.9, 0.8, 0.75, 0.5])


def members(num_labels: int = 2) -> np.ndarray:
    """Returns logits of members with independent errors on 20,000 examples, [M, n, C]."""
    rng = np.random.default_rng(0)
    gold = rng.integers(num_labels, size=20_000)
    wrong = (gold + rng.integers(1, num_labels, size=(len(ACCURACIES), len(gold)))) % num_labels
    predicted = np.where(rng.random(wrong.shape) < ACCURACIES[:, None], gold, wrong)
    return 3 * np.eye(num_labels)[predicted]


def test_unlabeled_data_corrects_an_unlucky_held_out_accuracy() -> None:
    """By 16 labels the guessing member seems to be the best one. The unlabeled data reverses the order."""
    held_out = [11 / 16, 11 / 16, 11 / 16, 12 / 16]
    estimated = estimate_accuracies(members(), held_out, GROUPS, 16)
    assert sorted(estimated, reverse=True) == estimated
    assert estimated[0] - estimated[3] > 0.1


@pytest.mark.parametrize("num_labels", [2, 20])
def test_many_labels_decide(num_labels: int) -> None:
    estimated = estimate_accuracies(members(num_labels), list(ACCURACIES), GROUPS, 10**6)
    assert estimated == pytest.approx(list(ACCURACIES), abs=1e-3)


def test_a_member_without_held_out_examples_gets_its_agreement() -> None:
    estimated = estimate_accuracies(members(), [0.9, None, 0.75, 0.5], GROUPS, 10**6)
    assert estimated[1] == pytest.approx(0.76, abs=0.03), "0.8 x 0.9 + 0.2 x 0.1 with the first member"
    assert all(accuracy is not None for accuracy in estimate_accuracies(members(), [None] * 4, GROUPS, 0))


def test_one_voter_among_guesses_keeps_its_lead() -> None:
    estimated = estimate_accuracies(members()[[0, 3]], [0.95, 0.5], GROUPS[:2], 32)
    assert estimated[0] > estimated[1] and estimated[1] == pytest.approx(0.5, abs=0.02)


def test_without_others_or_unlabeled_data_the_held_out_accuracy_stays() -> None:
    assert estimate_accuracies(members()[:1], [0.7], GROUPS[:1], 32) == [0.7]
    assert estimate_accuracies(members()[:, :0], [0.7, None, 0.5, 0.5], GROUPS, 32) == [0.7, None, 0.5, 0.5]


def test_agreement_counts_as_a_fixed_number_of_examples() -> None:
    few, many = (
        estimate_accuracies(members()[:, :size], [0.5] * 4, GROUPS, AGREEMENT_EXAMPLES) for size in (5_000, 20_000)
    )
    assert few == pytest.approx(many, abs=0.01)
    assert few[0] == pytest.approx((0.5 + 0.8) / 2, abs=0.05)


def test_members_of_one_group_do_not_confirm_each_other() -> None:
    """The last two members make the same errors. Their agreement counts only if there is no other group."""
    logits = members()[[0, 1, 2, 3, 3]]
    two = estimate_accuracies(logits, [0.7] * 5, ("a", "b", "c", "d", "d"), 32)
    separate = estimate_accuracies(logits, [0.7] * 5, ("a", "b", "c", "d", "e"), 32)
    assert two[4] == pytest.approx((0.7 + 0.5) / 2, abs=0.02)
    assert separate[4] > two[4] + 0.02
    assert estimate_accuracies(logits, [0.7] * 5, ("a",) * 5, 32) == separate
