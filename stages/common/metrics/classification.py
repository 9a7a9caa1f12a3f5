"""Scores of predicted labels (accuracy, macro F1, Matthews correlation, calibration error, exact match), and how
reliable probabilities are (reliability bins, accuracy at coverage, entropy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, precision_recall_fscore_support


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Metrics of predicted labels, 0 to 1 (`mcc` and `qwk`: -1 to 1; `mae` of ordered labels: 0 to C - 1). None: it
    does not apply.

    For several labels per example see stages/common/metrics/multi_label.py, for token labels and answers
    stages/token_level/metrics.py, for numbers stages/regression/metrics.py
    """

    accuracy: float
    macro_f1: float
    mcc: float | None
    """Matthews correlation coefficient: 0 for random predictions, whatever the sizes of the classes."""
    ece: float | None
    """Expected calibration error in 10 bins."""
    exact_match: float | None
    """Share of questions with only correct answers (EM of MultiRC), or of exact answers."""
    num_examples: int
    entity_f1: float | None = None
    """F1 of named entities."""
    micro_f1: float | None = None
    """F1 of all labels together, in multi-label classification. If each example has one label, it is the accuracy."""
    mae: float | None = None
    """Mean absolute error of ordered labels, in steps: 1 for each prediction of a neighbor of the right label. Of
    predicted numbers, in their unit.
    """
    qwk: float | None = None
    """Cohen's kappa of ordered labels with quadratic weights: 1 for right predictions, 0 for random ones."""


class DevScore(NamedTuple):
    """An evaluation of the dev set: the metric to maximize (mostly accuracy), and the mean loss."""

    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """The result of every stage that predicts the test set: a row of the report."""

    test: Score
    num_labeled: int
    """Labeled examples that the model, or its teacher, was trained on."""
    num_unlabeled: int
    """Unlabeled examples that it was trained on."""
    trainable_parameters: int


def score(
    logits: NDArray[np.float64],
    gold: Sequence[str],
    labels: Sequence[str],
    questions: Sequence[str | None] | None = None,
) -> Score:
    """Compares logits with gold labels.

    Args:
        logits: [n, C] in the order of `labels`; probabilities are their softmax.
        gold: [n] labels.
        labels: [C] all labels.
        questions: [n] the question that each example answers. If it is None, or has a None, there is no exact match.

    Raises:
        ValueError: the numbers of logits and gold labels differ.
    """
    truth, predicted = _indices(logits, gold, labels)
    macro_f1 = f1_score(truth, predicted, labels=range(len(labels)), average="macro", zero_division=0)
    return Score(
        accuracy=round(float((predicted == truth).mean()), 6),
        macro_f1=round(float(macro_f1), 6),
        mcc=round(float(matthews_corrcoef(truth, predicted)), 6),
        ece=round(expected_calibration_error(softmax(np.asarray(logits)), truth), 6),
        exact_match=_exact_match(predicted == truth, questions),
        num_examples=len(gold),
    )


def per_class_report(logits: NDArray[np.float64], gold: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one row per label: precision, recall, F1, number of examples, and how often each label was predicted.

    Args:
        logits: [n, C] in the order of `labels`.
        gold: [n] labels.
        labels: [C] all labels.

    Raises:
        ValueError: the numbers of logits and gold labels differ.
    """
    truth, predicted = _indices(logits, gold, labels)
    indices = range(len(labels))
    metrics = zip(*precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0), strict=True)
    confusion = confusion_matrix(truth, predicted, labels=indices)
    return [
        {
            "label": label,
            "precision": round(float(precision), 6),
            "recall": round(float(recall), 6),
            "f1": round(float(f1), 6),
            "support": int(support),
            **{f"predicted {other}": int(count) for other, count in zip(labels, counts, strict=True)},
        }
        for label, (precision, recall, f1, support), counts in zip(labels, metrics, confusion, strict=True)
    ]


class _Indices(NamedTuple):
    """[n] indices of gold and of predicted labels."""

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]


def _indices(logits: NDArray[np.float64], gold: Sequence[str], labels: Sequence[str]) -> _Indices:
    if len(logits) != len(gold):
        raise ValueError(f"{len(logits)} predictions, but {len(gold)} gold labels.")
    index = {label: number for number, label in enumerate(labels)}
    return _Indices(np.array([index[label] for label in gold]), np.asarray(logits).argmax(axis=1))


def _exact_match(is_right: NDArray[np.bool_], questions: Sequence[str | None] | None) -> float | None:
    if questions is None or None in questions:
        return None
    is_question_right: dict[str | None, bool] = {}
    for question, is_example_right in zip(questions, is_right, strict=True):
        is_question_right[question] = is_question_right.get(question, True) and bool(is_example_right)
    return round(sum(is_question_right.values()) / len(is_question_right), 6)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the softmax over the last dimension, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def expected_calibration_error(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], num_bins: int = 10
) -> float:
    """Returns the ECE (Guo et al., ICML 2017): mean gap between confidence and accuracy over equal-width bins.

    Args:
        probabilities: [n, C].
        truth: [n] indices of the gold labels.
        num_bins: Bins of confidence between 0 and 1.
    """
    bins = reliability_bins(probabilities, truth, num_bins)
    return sum(item.count * abs(item.accuracy - item.confidence) for item in bins) / len(truth)
