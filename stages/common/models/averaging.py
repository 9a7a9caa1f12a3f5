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
"""Texts that say nothing (Zhao et al., "Calibrate Before Use", ICML 2021)."""


def calibrate(logits: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Takes a member's preference for some labels away: logits minus the log of its mean distribution on `reference`.

    With texts that say nothing as reference this is contextual calibration (Zhao et al., "Calibrate Before Use", ICML
    2021); with the unlabelled pile batch calibration (Zhou et al., ICLR 2024), which supposes that the labels are about
    equally frequent there.

    Args:
        logits: [n, C].
        reference: [m, C] logits of the same member.
    """

    prior = softmax(reference).mean(axis=0)
    calibrated: NDArray[np.float64] = logits - np.log(np.maximum(prior, 1e-12))
    return calibrated


def member_weights(kind: Weights, accuracies: Sequence[float], groups: Sequence[str]) -> NDArray[np.float64]:
    """[M] weights of the members, which sum to 1.

    Args:
        kind: uniform; accuracy (in proportion to `accuracies`, uniform where all are 0); balanced (every group weighs
            the same, so that a probe counts as much as all sub-models together).
        accuracies: [M] accuracy of each member on the labelled set before training.
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
    """[n, C] logits of the ensemble.

    Args:
        member_logits: [M, n, C] logits of the members.
        weights: [M], which sum to 1.
        average: Of what: raw logits, or probabilities, whose logarithms are returned.
        temperature: Divides the logits (those of each member for a mean of probabilities): above 1 softens.
    """

    if average == "logits":
        mixed: NDArray[np.float64] = np.average(member_logits, axis=0, weights=weights) / temperature
        return mixed
    probabilities = np.average(softmax(member_logits / temperature), axis=0, weights=weights)
    logarithms: NDArray[np.float64] = np.log(np.maximum(probabilities, 1e-12))
    return logarithms
