"""Averages the logits of ensemble members: calibration, weights, and the mean of logits or probabilities.

The mean of raw logits is PET's (Schick & Schütze, EACL 2021). It lets over-confident members dominate and compares
different scales: the logits of a language model and those of a logistic regression. Use the mean of probabilities for
members of different kinds. Contextual calibration is that of Zhao et al., "Calibrate Before Use" (ICML 2021); batch
calibration, with the unlabeled set as reference, that of Zhou et al. (ICLR 2024); temperatures are those of Guo et al.,
"On Calibration of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from stages.common.metrics.classification import softmax
from stages.common.models.config import Average, Weights
from stages.common.problems import Problem


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


def cross_entropies(logits: NDArray[np.float64], gold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the cross-entropy of each example, [n], from logits [n, C] and indices of the labels [n]."""
    result: NDArray[np.float64] = logsumexp(logits, axis=1) - logits[np.arange(len(gold)), gold]
    return result


@dataclass(frozen=True, slots=True)
class Scaling:
    """Makes a member as certain as it is right: divides its logits, and shifts those of a label."""

    temperature: float = 1.0
    bias: NDArray[np.float64] | None = None
    """[C] what is added to the divided logits; None for nothing."""

    @classmethod
    def fit(cls, held_out_logits: NDArray[np.float64], gold: NDArray[np.int64], *, has_bias: bool) -> Scaling:
        """Fits the scaling to examples that the member did not learn from.

        It minimizes the sum of the cross-entropies plus log(T)^2 / 2 and half the squared biases, which are normal
        priors, so that few examples that are all right do not make the member infinitely certain.

        Args:
            held_out_logits: [n, C].
            gold: [n] indices of the labels.
            has_bias: True for a language model, which prefers words for other reasons than the text.
        """
        num_labels = held_out_logits.shape[1]
        centered = held_out_logits - held_out_logits.mean(axis=1, keepdims=True)
        start = math.log(max(float(centered.std()), 1e-6))  # unit scale

        def loss(parameters: NDArray[np.float64]) -> float:
            logits = centered / math.exp(parameters[0]) + (parameters[1:] if has_bias else 0.0)
            prior = (parameters[0] - start) ** 2 + (parameters[1:] ** 2).sum()
            return float(cross_entropies(logits, gold).sum() + prior / 2)

        first = np.array([start, *([0.0] * num_labels if has_bias else [])])
        fitted = minimize(loss, first, method="L-BFGS-B").x
        bias = fitted[1:] if has_bias else None
        return cls(math.exp(float(fitted[0])), bias)

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns scaled logits, [n, C]."""
        scaled = logits / self.temperature
        return scaled if self.bias is None else scaled + self.bias


def member_weights(
    kind: Weights, accuracies: Sequence[float | None], groups: Sequence[str], num_examples: int, num_labels: int
) -> NDArray[np.float64]:
    """Returns the weights of the members, [M]; their sum is 1.

    Args:
        kind: uniform; accuracy (in proportion to `accuracies`); balanced (equal weight per group, so a probe counts as
            much as all sub-models together); held_out and label_model (log-odds of the accuracy above chance, shared
            within a group). Uniform if all weights would be 0.
        accuracies: [M] accuracy of each member: held-out, or as a label model estimates it.
        groups: [M] name of the group of each member.
        num_examples: Number of examples that the accuracies are worth.
        num_labels: C.
    """
    sizes = Counter(groups)
    known = np.array([accuracy or 0.0 for accuracy in accuracies])
    per_group = 1 / np.array([sizes[group] for group in groups])
    votes = {
        "uniform": np.ones(len(known)),
        "accuracy": known,
        "balanced": per_group,
        "held_out": log_odds_above_chance(known, num_examples, num_labels) * per_group,
        "label_model": log_odds_above_chance(known, num_examples, num_labels) * per_group,
    }[kind]
    if not votes.any():
        votes = np.ones(len(known))
    normalized: NDArray[np.float64] = votes / votes.sum()
    return normalized


def log_odds_above_chance(
    accuracies: NDArray[np.float64], num_examples: int | NDArray[np.int64], num_labels: int
) -> NDArray[np.float64]:
    """Returns the log-odds of the lower bound of each accuracy, minus those of a guess, and at least 0.

    Log-odds are the optimal weights of independent voters (Nitzan & Paroush, 1982). The lower bound is one standard
    error below a smoothed accuracy, so a member that is not clearly better than a guess has no vote.

    Args:
        accuracies: [M] accuracies of the members.
        num_examples: Number of examples they are measured on, one for all or [M].
        num_labels: C.
    """
    chance = 1 / num_labels
    smoothed = (accuracies * num_examples + 1) / (num_examples + 2)
    bound = smoothed - np.sqrt(smoothed * (1 - smoothed) / (num_examples + 2))
    bound = np.clip(bound, 1e-6, 1 - 1e-6)
    above: NDArray[np.float64] = np.log(bound / (1 - bound)) - math.log(chance / (1 - chance))
    return np.maximum(above, 0.0)


def average_members(
    member_logits: NDArray[np.float64],
    weights: NDArray[np.float64],
    average: Average,
    temperature: float,
    problem: Problem,
) -> NDArray[np.float64]:
    """Returns the logits of the ensemble, [n, C].

    Args:
        member_logits: [M, n, C] logits of the members.
        weights: [M] weights whose sum is 1.
        average: Averages raw logits, or probabilities; then the result are logits that have the mean probabilities.
        temperature: Divides the logits (for probabilities, those of each member). A value above 1 softens.
        problem: Its labels.
    """
    if average == "logits":
        logits: NDArray[np.float64] = np.average(member_logits, axis=0, weights=weights) / temperature
        return logits
    return problem.logits(np.average(problem.probabilities(member_logits / temperature), axis=0, weights=weights))
