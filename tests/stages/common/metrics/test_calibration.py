"""Tests of calibration: bins, calibration error, accuracy at coverage, entropy."""

from __future__ import annotations

import numpy as np
import pytest

from stages.common.metrics import classification
from stages.common.metrics.classification import expected_calibration_error


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    """Two bins: three predictions with confidence 0.9, two of them correct, and a wrong one with 0.55."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.55, 0.45]])
    truth = np.array([0, 0, 0, 1])
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * abs(0.55 - 0)
    assert expected_calibration_error(probabilities, truth) == pytest.approx(expected)


def test_full_confidence_is_in_the_last_bin() -> None:
    assert expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])) == pytest.approx(0.5)


def test_reliability_bins_have_every_example_and_give_the_calibration_error() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet([1, 1, 1], size=400)
    truth = rng.integers(0, 3, size=400)
    actual = classification.reliability_bins(probabilities, truth)
    assert sum(item.count for item in actual) == 400
    assert all(1 / 3 <= item.confidence <= 1 for item in actual)
    error = sum(item.count / 400 * abs(item.accuracy - item.confidence) for item in actual)
    assert error == pytest.approx(expected_calibration_error(probabilities, truth), abs=1e-5)


def test_accuracy_at_coverage_starts_with_the_most_confident() -> None:
    """Ten examples with increasing confidence; the five least confident ones are wrong."""
    sure = np.linspace(0.55, 0.95, 10)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    truth = np.array([1] * 5 + [0] * 5)
    points = dict(classification.accuracy_at_coverage(probabilities, truth, num_points=10))
    assert list(points) == pytest.approx([number / 10 for number in range(1, 11)])
    assert (points[0.1], points[0.5], points[1.0]) == (1, 1, 0.5)
    assert points[0.8] == pytest.approx(5 / 8)


def test_accuracy_at_coverage_groups_equal_confidences() -> None:
    probabilities = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]] * 7)
    truth = np.array([0, 0, 1] + [0] * 7)
    assert classification.accuracy_at_coverage(probabilities, truth) == ((0.3, 0.666667), (1.0, 0.9))


def test_entropies_are_divided_by_the_maximum() -> None:
    actual = classification.entropies(np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]]))
    assert actual == pytest.approx([0, 1, 0.5], abs=1e-6)
