"""How well does a model that is not trained predict the labeled examples? Its calibration is cross-validated.

A language model prefers some label words for other reasons than the text. What removes this preference is fitted to
labeled examples, so it is judged on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.common.metrics.classification import softmax
from stages.common.models.averaging import Scaling
from stages.common.training.cross_validation import Indices, held_out_logits


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """How well logits predict labeled examples. `loss`: the mean cross-entropy."""

    accuracy: float
    loss: float

    @classmethod
    def of(cls, logits: NDArray[np.float64], gold: NDArray[np.int64]) -> HeldOutScore:
        """Returns the score of logits [n, C] for indices of the labels [n]."""
        likelihoods = softmax(logits)[np.arange(len(gold)), gold]
        loss = float(-np.log(np.maximum(likelihoods, 1e-12)).mean())
        return cls(float((logits.argmax(axis=1) == gold).mean()), loss)

    @property
    def rank(self) -> tuple[float, float]:
        """A key to sort by, the best first: by accuracy, and if it is equal by loss."""
        return (-self.accuracy, self.loss)


def calibrated_logits(
    logits_for: Callable[[Indices], NDArray[np.float64]],
    gold: NDArray[np.int64],
    num_labels: int,
    num_folds: int,
    *,
    groups: Sequence[int],
) -> NDArray[np.float64] | None:
    """Returns the logits [n, C] of every example, calibrated on the other folds; None if nothing can be held out.

    Args:
        logits_for: Returns the logits [n, C] of what some rows led to, such as the label words that a search found.
        gold: [n] indices of the labels.
        num_labels: C.
        num_folds: Number of folds.
        groups: [n] numbers. All examples of a number are in one fold.
    """

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        del fold
        logits = logits_for(fitted)
        return Scaling.fit(logits[fitted], gold[fitted], has_bias=True)(logits[held_out])

    return held_out_logits(gold.tolist(), num_labels, num_folds, fit_and_predict, groups=groups)
