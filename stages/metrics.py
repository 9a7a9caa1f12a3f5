"""Figures of merit, the same for everything that labels texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well labels were predicted; all between 0 and 1. `ece` is the expected calibration error in 10 bins."""

    accuracy: float
    macro_f1: float
    ece: float
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What every stage that labels the test set says of itself: a row of the report.

    `num_labelled` and `num_unlabelled` count the examples that it, or what it learnt from, was trained on.
    """

    test: Score
    num_labelled: int
    num_unlabelled: int
    trainable_parameters: int


def score(logits: NDArray[np.float64], gold: Sequence[str], labels: Sequence[str]) -> Score:
    """Compares logits with gold labels.

    Args:
        logits: [n, C] in the order of `labels`; probabilities are their softmax.
        gold: [n] labels.
        labels: [C] all labels.

    Raises:
        ValueError: the numbers of logits and gold labels differ.
    """
    import numpy as np
    from sklearn.metrics import f1_score

    if len(logits) != len(gold):
        raise ValueError(f"{len(logits)} predictions, but {len(gold)} gold labels.")
    index = {label: number for number, label in enumerate(labels)}
    truth = np.array([index[label] for label in gold])
    guess = np.asarray(logits).argmax(axis=1)
    return Score(
        accuracy=round(float((guess == truth).mean()), 6),
        macro_f1=round(float(f1_score(truth, guess, labels=range(len(labels)), average="macro", zero_division=0)), 6),
        ece=round(expected_calibration_error(softmax(np.asarray(logits)), truth), 6),
        num_examples=len(gold),
    )


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last dimension, in float64."""
    import numpy as np

    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def expected_calibration_error(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], num_bins: int = 10
) -> float:
    """ECE (Guo et al., ICML 2017): mean gap between confidence and accuracy over equal-width bins.

    Args:
        probabilities: [n, C].
        truth: [n] indices of the right labels.
        num_bins: Bins of confidence between 0 and 1.
    """
    import numpy as np

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = [
        (bins == number).mean() * abs(right[bins == number].mean() - confidence[bins == number].mean())
        for number in range(num_bins)
        if (bins == number).any()
    ]
    return float(sum(gaps))
