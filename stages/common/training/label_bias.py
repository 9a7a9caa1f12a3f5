"""A bias per label, so that a classifier does not overlook labels that are rare but matter.

The most probable label is right most often, so of two labels of which one is rare, a classifier may never predict that
one: 99% accuracy, and a macro-F1 of 49.7%. The bias of a label is `strength * -log(its frequency)` (logit adjustment,
Menon et al., ICLR 2021). Only the strength is fitted, to held-out logits, because rare labels have too few examples for
a threshold per label. With two labels, this is scikit-learn's TunedThresholdClassifierCV with scoring="f1_macro".

With several labels per example, each label is a decision of its own, and its bias is a threshold. `macro_f1` maximizes
its F1 (scikit-learn's TunedThresholdClassifierCV with scoring="f1"). `frequencies` predicts it as often as the examples
have it, which needs fewer examples (SCut and PCut of Yang, "A Study of Thresholding Strategies for Text
Categorization", SIGIR 2001).

The bias becomes part of the last layer, so every copy of the classifier has it, whatever its format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from stages.common.config import LabelBias
from stages.common.errors import InputError
from stages.common.problems import Gold

STRENGTHS = np.round(np.arange(-1.0, 2.01, 0.05), 2)
"""What is tried. 1 makes all labels count the same; more helps classifiers that are too certain, and less than 0 those
that were trained with balanced weights.
"""
TOLERANCE = 0.005
"""Macro-F1 that a bias of lower strength may lose: a difference this small may be noise."""


THRESHOLD_BIASES = np.round(np.arange(-4.0, 4.01, 0.1), 2)
"""What is tried for a label that is a decision of its own: thresholds from 2% to 98%."""
MIN_POSITIVES = 8
"""Examples that have a label, and that lack it, below which its threshold stays 50%."""
THRESHOLD_TOLERANCE = 0.01
"""F1 of a label that a threshold nearer to 50% may lose."""


class BiasedClassifier(Protocol):
    """A classifier with a linear last layer."""

    def add_bias(self, bias_C: NDArray[np.float64]) -> None:
        """Adds to the bias of the last layer."""


def fit_label_bias(
    held_out: NDArray[np.float64] | None, gold: Gold | Sequence[int], kind: LabelBias = "macro_f1"
) -> NDArray[np.float64]:
    """Returns the bias of each label, [C]. With one label per example, the mean over the labels is 0.

    Args:
        held_out: [n, C] logits of examples that the classifier did not learn from, if any.
        gold: [n] indices of the labels, or [n, C] of 0 and 1.
        kind: macro_f1 or, with several labels per example, frequencies.

    Raises:
        InputError: nothing could be held out.
    """
    if held_out is None:
        raise InputError(
            "no labeled example can be held out to fit a bias per label.", "Remove label_bias.", key="label_bias"
        )
    gold = np.asarray(gold)
    if gold.ndim == 2:
        fit = _frequency_bias if kind == "frequencies" else _threshold_bias
        return np.array([fit(logits_n, gold_n) for logits_n, gold_n in zip(held_out.T, gold.T, strict=True)])
    counts = np.bincount(gold.astype(np.int64), minlength=held_out.shape[1])
    log_frequencies = np.log(np.maximum(counts, 1))
    direction: NDArray[np.float64] = log_frequencies.mean() - log_frequencies
    scores = np.array([_macro_f1(held_out + strength * direction, gold) for strength in STRENGTHS])
    equal = STRENGTHS[scores >= scores.max() - TOLERANCE]
    return float(equal[np.abs(equal).argmin()]) * direction


def with_label_bias(
    kind: LabelBias, classifier: BiasedClassifier, held_out: NDArray[np.float64] | None, gold: Gold
) -> NDArray[np.float64] | None:
    """Adds the fitted bias to a classifier, unless `kind` is none; returns the held-out logits with it.

    Raises:
        InputError: nothing could be held out.
    """
    if kind == "none":
        return held_out
    bias = fit_label_bias(held_out, gold, kind)
    classifier.add_bias(bias)
    return None if held_out is None else held_out + bias


def _threshold_bias(logits_n: NDArray[np.float64], gold_n: NDArray[np.float64]) -> float:
    """Returns the bias of a label that maximizes its F1; 0 if too few examples have it, or lack it."""
    num_positives = gold_n.sum()
    if min(num_positives, len(gold_n) - num_positives) < MIN_POSITIVES:
        return 0.0
    predicted_Bn = logits_n + THRESHOLD_BIASES[:, None] > 0
    scores = 2 * (predicted_Bn @ gold_n) / (predicted_Bn.sum(axis=1) + num_positives)
    equal = THRESHOLD_BIASES[scores >= scores.max() - THRESHOLD_TOLERANCE]
    return float(equal[np.abs(equal).argmin()])


def _frequency_bias(logits_n: NDArray[np.float64], gold_n: NDArray[np.float64]) -> float:
    """Returns the bias with which a label is predicted as often as it is right; 0 if none or all examples have it."""
    num_positives = int(gold_n.sum())
    if num_positives in (0, len(gold_n)):
        return 0.0
    ordered = np.sort(logits_n)[::-1]
    return -float(ordered[num_positives - 1 : num_positives + 1].mean())


def _macro_f1(logits: NDArray[np.float64], gold: NDArray[np.int64]) -> float:
    labels = range(logits.shape[1])
    return float(f1_score(gold, logits.argmax(axis=1), labels=labels, average="macro", zero_division=0))
