"""Tests of averaging members, compared with known values."""

from __future__ import annotations

import numpy as np
import pytest

from stages.common.metrics.classification import softmax
from stages.common.models.averaging import Scaling, average_members, calibrate, cross_entropies, member_weights
from stages.common.problems import SingleLabel

VOTES = np.array([[[4.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 3.0]]])
"""Two members, two texts, two labels."""
PROBLEM = SingleLabel(("a", "b"))


def test_member_weights_are_uniform_or_proportional_to_accuracy() -> None:
    assert member_weights("uniform", [0.9, 0.1], ["a", "a"], 8, 2) == pytest.approx([0.5, 0.5])
    assert member_weights("accuracy", [0.6, 0.2], ["a", "a"], 8, 2) == pytest.approx([0.75, 0.25])
    assert member_weights("accuracy", [0.0, 0.0], ["a", "a"], 8, 2) == pytest.approx([0.5, 0.5]), "uniform if all are 0"


def test_balanced_weights_are_equal_per_group() -> None:
    actual = member_weights("balanced", [0.5] * 4, ["pet", "pet", "pet", "probe"], 8, 2)
    assert actual == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_held_out_weights_are_log_odds_above_chance() -> None:
    """With many examples the standard error vanishes: log-odds of 0.9 and 0.8, and no vote for a guess."""
    weights = member_weights("held_out", [0.9, 0.8, 0.5, None], ["a", "b", "c", "d"], 10**9, 2)
    odds = np.log([9.0, 4.0])
    assert weights == pytest.approx([*(odds / odds.sum()), 0, 0], abs=1e-3)


def test_a_member_that_is_not_clearly_better_than_a_guess_has_no_vote() -> None:
    """20 of 32 examples of two labels are within the noise of a guess, 20 of 32 examples of ten labels are not."""
    assert member_weights("held_out", [0.95, 17 / 32], ["a", "b"], 32, 2) == pytest.approx([1, 0])
    assert member_weights("held_out", [0.95, 17 / 32], ["a", "b"], 32, 10)[1] > 0.1


def test_held_out_weights_are_shared_within_a_group() -> None:
    weights = member_weights("held_out", [0.9, 0.9, 0.9], ["pet", "pet", "probe"], 32, 2)
    assert weights == pytest.approx([0.25, 0.25, 0.5])


def test_held_out_weights_are_uniform_if_all_members_guess() -> None:
    assert member_weights("held_out", [0.5, 0.4], ["a", "b"], 32, 2) == pytest.approx([0.5, 0.5])


def sample_labels(logits: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([rng.choice(logits.shape[1], p=row) for row in softmax(logits)])


@pytest.mark.parametrize("scale", [1.0, 7.0, 1 / 9])
def test_scaling_finds_the_temperature_of_logits(scale: float) -> None:
    logits = np.random.default_rng(1).normal(size=(20_000, 3)) * 2
    scaling = Scaling.fit(logits * scale, sample_labels(logits), has_bias=False)
    assert scaling.temperature == pytest.approx(scale, rel=0.05)
    assert scaling(logits * scale) == pytest.approx(logits * scale / scaling.temperature)


def test_scaling_removes_the_bias_of_a_language_model() -> None:
    logits = np.random.default_rng(1).normal(size=(20_000, 2)) * 2
    gold = sample_labels(logits)
    scaling = Scaling.fit(logits / 10 + np.array([0.6, 0.0]), gold, has_bias=True)
    assert scaling.temperature == pytest.approx(0.1, rel=0.05)
    assert scaling(logits / 10 + np.array([0.6, 0.0])).argmax(axis=1).mean() == pytest.approx(gold.mean(), abs=0.02)


def test_scaling_of_a_member_without_errors_stays_finite() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]] * 8)
    assert 0.05 < Scaling.fit(logits, np.array([0, 1] * 8), has_bias=True).temperature < 1


def test_cross_entropies_are_negative_log_probabilities() -> None:
    logits, gold = np.random.default_rng(1).normal(size=(50, 3)), np.arange(50) % 3
    assert cross_entropies(logits, gold) == pytest.approx(-np.log(softmax(logits)[np.arange(50), gold]))


def test_average_of_logits_is_weighted_and_divided_by_the_temperature() -> None:
    actual = average_members(VOTES, np.array([0.75, 0.25]), "logits", 2.0, PROBLEM)
    assert actual == pytest.approx(np.array([[3.0, 0.25], [0.0, 1.5]]) / 2)


def test_average_of_probabilities_is_normalized() -> None:
    actual = average_members(VOTES, np.array([0.5, 0.5]), "probabilities", 1.0, PROBLEM)
    first = (1 / (1 + np.exp(-4)) + 1 / (1 + np.exp(1))) / 2
    assert softmax(actual)[0] == pytest.approx([first, 1 - first])
    assert np.exp(actual).sum(axis=1) == pytest.approx([1, 1])


def test_temperature_softens_each_member() -> None:
    actual = average_members(VOTES[:1], np.array([1.0]), "probabilities", 4.0, PROBLEM)
    assert softmax(actual)[0] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


def test_calibrate_makes_a_content_free_text_uniform() -> None:
    biased = np.array([[2.0, 0.0, -1.0]])
    assert softmax(calibrate(biased, biased)) == pytest.approx(np.full((1, 3), 1 / 3))


def test_calibrate_with_unlabeled_data_moves_the_threshold() -> None:
    unlabeled = np.array([[3.0, 0.0], [2.0, 0.0], [0.5, 0.0], [0.2, 0.0]])
    actual = calibrate(unlabeled, unlabeled).argmax(axis=1)
    assert actual.tolist() == [0, 0, 1, 1], "all were the first label before"
    prior = softmax(unlabeled).mean(axis=0)
    assert calibrate(unlabeled, unlabeled) == pytest.approx(unlabeled - np.log(prior))
