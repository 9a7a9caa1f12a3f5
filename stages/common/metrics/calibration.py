"""How reliable the probabilities of a classifier are: reliability bins, accuracy at coverage, and entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Examples of similar confidence: mean confidence, share of correct predictions, and their number."""

    confidence: float
    accuracy: float
    count: int


def reliability_bins(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], num_bins: int = 10
) -> tuple[Bin, ...]:
    """Returns bins of equal width, without empty ones.

    Args:
        probabilities: [n, C].
        truth: [n] indices of the gold labels.
        num_bins: Bins of confidence between 0 and 1.
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    masks = [bins == number for number in range(num_bins)]
    return tuple(
        Bin(
            confidence=float(confidence[mask].mean()),
            accuracy=float(is_right[mask].mean()),
            count=int(mask.sum()),
        )
        for mask in masks
        if mask.any()
    )


class CoveragePoint(NamedTuple):
    """Share of the examples that are answered, the most confident ones, and the accuracy on them."""

    share: float
    accuracy: float


def accuracy_at_coverage(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], num_points: int = 20
) -> tuple[CoveragePoint, ...]:
    """Returns the accuracy on the most confident examples, from few examples to all.

    It shows the gain if humans label the uncertain examples. Examples of equal confidence are included together.

    Args:
        probabilities: [n, C].
        truth: [n] indices of the gold labels.
        num_points: Points of the curve at most.
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == truth
    ranked = np.sort(confidence)[::-1]
    points: dict[float, float] = {}
    for number in range(1, num_points + 1):
        threshold = ranked[max(1, round(number * len(ranked) / num_points)) - 1]
        is_answered = confidence >= threshold
        points[round(float(is_answered.mean()), 6)] = round(float(is_right[is_answered].mean()), 6)
    return tuple(CoveragePoint(*point) for point in points.items())


def entropies(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the entropy [n] of each distribution [n, C], divided by the maximum: 0 is certain, 1 is uniform."""
    logarithms = np.log(np.maximum(probabilities, 1e-12))
    shares: NDArray[np.float64] = -(probabilities * logarithms).sum(axis=1) / np.log(max(2, probabilities.shape[1]))
    return np.clip(shares, 0.0, 1.0)
