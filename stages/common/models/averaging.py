"""Averages the logits of ensemble members: calibration, weights, and the mean of logits or probabilities.

The mean of raw logits is PET's (Schick & Schütze, EACL 2021). It lets over-confident members dominate and compares
different scales: the logits of a language model and those of a logistic regression. Use the mean of probabilities for
members of different kinds. Contextual calibration is that of Zhao et al., "Calibrate Before Use" (ICML 2021); batch
calibration, with the unlabeled set as reference, that of Zhou et al. (ICLR 2024).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.common.metrics.classification import softmax
from stages.common.models.config import Average, Weights

CONTENT_FREE_TEXTS = ("N/A", "[MASK]", "...")
"""Texts without content, for contextual calibration."""


def calibrate(logits: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Removes a member's prior preference for a label: subtracts the log of its mean distribution on `reference`.

    With content-free texts as reference, this is contextual calibration (Zhao et al., ICML 2021). With the unlabeled
    set it is batch calibration (Zhou et al., ICLR 2024), which assumes that all labels are about equally frequent.

    Args:
        logits: [n, C].
        reference: [m, C] logits of the same member.
    """
    prior = softmax(reference).mean(axis=0)
    calibrated: NDArray[np.float64] = logits - np.log(np.maximum(prior, 1e-12))
    return calibrated


def member_weights(kind: Weights, accuracies: Sequence[float], groups: Sequence[str]) -> NDArray[np.float64]:
    """Returns the weights of the members, [M]; their sum is 1.

    Args:
        kind: uniform; accuracy (in proportion to `accuracies`, uniform if all are 0); balanced (equal weight per group,
            so a probe counts as much as all sub-models together).
        accuracies: [M] accuracy of each member on the labeled set before training.
        groups: [M] name of the group of each member.
    """
    if kind == "accuracy" and any(accuracies):
        return np.array(accuracies) / sum(accuracies)
    if kind == "balanced":
        sizes = Counter(groups)
        return np.array([1 / (len(sizes) * sizes[group]) for group in groups])
    return np.full(len(accuracies), 1 / len(accuracies))


def average_members(
    member_logits: NDArray[np.float64], weights: NDArray[np.float64], average: Average, temperature: float
) -> NDArray[np.float64]:
    """Returns the logits of the ensemble, [n, C].

    Args:
        member_logits: [M, n, C] logits of the members.
        weights: [M] weights whose sum is 1.
        average: Averages raw logits, or probabilities; then the result is their logarithm.
        temperature: Divides the logits (for probabilities, those of each member). A value above 1 softens.
    """
    if average == "logits":
        logits: NDArray[np.float64] = np.average(member_logits, axis=0, weights=weights) / temperature
        return logits
    probabilities = np.average(softmax(member_logits / temperature), axis=0, weights=weights)
    log_probabilities: NDArray[np.float64] = np.log(np.maximum(probabilities, 1e-12))
    return log_probabilities
