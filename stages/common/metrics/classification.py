"""Scores of predicted labels: accuracy, macro F1, Matthews correlation, calibration error, exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, precision_recall_fscore_support

from stages.common.metrics.calibration import reliability_bins


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well labels were predicted; all between 0 and 1, but `mcc` between -1 and 1. None where it makes no sense.

    `mcc` is Matthews' correlation, 0 for guessing whatever the sizes of the classes; `ece` the expected calibration
    error in 10 bins; `exact_match` the share of groups whose every example is right (EM of MultiRC), or of answers that
    are; `entity_f1` F1 of named entities. Of token labels and answers see stages/token_level/metrics.py
    """

    accuracy: float
    macro_f1: float
    mcc: float | None
    ece: float | None
    exact_match: float | None
    num_examples: int
    entity_f1: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What every stage that labels the test set says of itself: a row of the report.

    `num_labeled` and `num_unlabeled` count the examples that it, or what it learnt from, was trained on.
    """

    test: Score
    num_labeled: int
    num_unlabeled: int
    trainable_parameters: int


def score(
    logits: NDArray[np.float64],
    gold: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str | None] | None = None,
) -> Score:
    """Compares logits with gold labels.

    Args:
        logits: [n, C] in the order of `labels`; probabilities are their softmax.
        gold: [n] labels.
        labels: [C] all labels.
        groups: [n] the question that each example belongs to; None, alone or among them, where there are none.

    Raises:
        ValueError: the numbers of logits and gold labels differ.
    """

    truth, guess = _indices(logits, gold, labels)
    return Score(
        accuracy=round(float((guess == truth).mean()), 6),
        macro_f1=round(float(f1_score(truth, guess, labels=range(len(labels)), average="macro", zero_division=0)), 6),
        mcc=round(float(matthews_corrcoef(truth, guess)), 6),
        ece=round(expected_calibration_error(softmax(np.asarray(logits)), truth), 6),
        exact_match=_exact_match(guess == truth, groups),
        num_examples=len(gold),
    )


def per_class_report(logits: NDArray[np.float64], gold: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """One row a label: precision, recall, F1, its examples (support), and how often each label was predicted for them.

    Args:
        logits: [n, C] in the order of `labels`.
        gold: [n] labels.
        labels: [C] all labels.

    Raises:
        ValueError: the numbers of logits and gold labels differ.
    """

    truth, guess = _indices(logits, gold, labels)
    places = range(len(labels))
    figures = zip(*precision_recall_fscore_support(truth, guess, labels=places, zero_division=0), strict=True)
    confusion = confusion_matrix(truth, guess, labels=places)
    return [
        {
            "label": label,
            "precision": round(float(precision), 6),
            "recall": round(float(recall), 6),
            "f1": round(float(f1), 6),
            "support": int(support),
            **{f"predicted {other}": int(count) for other, count in zip(labels, counts, strict=True)},
        }
        for label, (precision, recall, f1, support), counts in zip(labels, figures, confusion, strict=True)
    ]


def _indices(
    logits: NDArray[np.float64], gold: Sequence[str], labels: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[n] indices of the right and of the predicted labels."""

    if len(logits) != len(gold):
        raise ValueError(f"{len(logits)} predictions, but {len(gold)} gold labels.")
    index = {label: number for number, label in enumerate(labels)}
    return np.array([index[label] for label in gold]), np.asarray(logits).argmax(axis=1)


def _exact_match(right: NDArray[np.bool_], groups: Sequence[str | None] | None) -> float | None:
    if groups is None or None in groups:
        return None
    whole: dict[str | None, bool] = {}
    for group, hit in zip(groups, right, strict=True):
        whole[group] = whole.get(group, True) and bool(hit)
    return round(sum(whole.values()) / len(whole), 6)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last dimension, in float64."""

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
    found = reliability_bins(probabilities, truth, num_bins)
    return sum(item.count * abs(item.accuracy - item.confidence) for item in found) / len(truth)
