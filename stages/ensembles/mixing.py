"""Mixing what several members say: calibration, weights, means. All arrays are logits or probabilities of C labels.

The mean of raw logits is PET's (Schick & Schütze, EACL 2021). It lets over-confident members dominate, and it compares
what may not be comparable: the logits of a language model and those of a logistic regression have different scales.
The mean of probabilities is the right one for members of different kinds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stages.measures.metrics import softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mean = Literal["logits", "probabilities"]
Weights = Literal["uniform", "accuracy", "balanced"]
Calibration = Literal["none", "contextual", "pile"]


def calibrate(logits: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Takes a member's preference for some labels away: logits minus the log of its mean distribution on `reference`.

    With texts that say nothing as reference this is contextual calibration (Zhao et al., "Calibrate Before Use", ICML
    2021); with the unlabelled pile batch calibration (Zhou et al., ICLR 2024), which supposes that the labels are about
    equally frequent there.

    Args:
        logits: [n, C].
        reference: [m, C] logits of the same member.
    """
    import numpy as np

    prior = softmax(reference).mean(axis=0)
    calibrated: NDArray[np.float64] = logits - np.log(np.maximum(prior, 1e-12))
    return calibrated


def weigh(kind: Weights, accuracies: Sequence[float], groups: Sequence[str]) -> NDArray[np.float64]:
    """[M] weights of the members, which sum to 1.

    Args:
        kind: uniform; accuracy (in proportion to `accuracies`, uniform where all are 0); balanced (every group weighs
            the same, so that a probe counts as much as all sub-models together).
        accuracies: [M] accuracy of each member on the labelled set before training.
        groups: [M] name of the group of each member.
    """
    import numpy as np

    if kind == "accuracy" and any(accuracies):
        return np.array(accuracies) / sum(accuracies)
    if kind == "balanced":
        sizes = Counter(groups)
        return np.array([1 / (len(sizes) * sizes[group]) for group in groups])
    return np.full(len(accuracies), 1 / len(accuracies))


def mix(
    votes: NDArray[np.float64], weights: NDArray[np.float64], mean: Mean, temperature: float
) -> NDArray[np.float64]:
    """[n, C] logits of the ensemble.

    Args:
        votes: [M, n, C] logits of the members.
        weights: [M], which sum to 1.
        mean: Of what: raw logits, or probabilities, whose logarithms are returned.
        temperature: Divides the logits (those of each member for a mean of probabilities): above 1 softens.
    """
    import numpy as np

    if mean == "logits":
        mixed: NDArray[np.float64] = np.average(votes, axis=0, weights=weights) / temperature
        return mixed
    probabilities = np.average(softmax(votes / temperature), axis=0, weights=weights)
    logarithms: NDArray[np.float64] = np.log(np.maximum(probabilities, 1e-12))
    return logarithms
