"""How far the probabilities of a classifier can be trusted: reliability, coverage and entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Texts of about the same confidence: its mean, how many of them were labelled rightly, and how many they are."""

    confidence: float
    accuracy: float
    count: int


def reliability_bins(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], num_bins: int = 10
) -> tuple[Bin, ...]:
    """Bins of equal width; empty ones are left out.

    Args:
        probabilities: [n, C].
        truth: [n] indices of the right labels.
        num_bins: Bins of confidence between 0 and 1.
    """

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    places = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    masks = [places == number for number in range(num_bins)]
    return tuple(
        Bin(
            confidence=float(confidence[mask].mean()),
            accuracy=float(right[mask].mean()),
            count=int(mask.sum()),
        )
        for mask in masks
        if mask.any()
    )


def accuracy_at_coverage(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], num_points: int = 20
) -> tuple[tuple[float, float], ...]:
    """Accuracy on the surest texts alone: (share of texts that are answered, accuracy on them), from few to all.

    It says what is gained by handing the unsure texts to a person. Texts of equal confidence are in or out together,
    since nothing tells them apart.

    Args:
        probabilities: [n, C].
        truth: [n] indices of the right labels.
        num_points: Points of the curve at most.
    """

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    ranked = np.sort(confidence)[::-1]
    points: dict[float, float] = {}
    for number in range(1, num_points + 1):
        least = ranked[max(1, round(number * len(ranked) / num_points)) - 1]
        kept = confidence >= least
        points[round(float(kept.mean()), 6)] = round(float(right[kept].mean()), 6)
    return tuple(points.items())


def entropies(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] entropy of each distribution [n, C], as a share of the largest one there is: 0 is sure, 1 knows nothing."""

    logarithms = np.log(np.maximum(probabilities, 1e-12))
    shares: NDArray[np.float64] = -(probabilities * logarithms).sum(axis=1) / np.log(max(2, probabilities.shape[1]))
    return np.clip(shares, 0.0, 1.0)
