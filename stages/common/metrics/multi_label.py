"""Scores of predicted label sets: subset accuracy, micro-F1 and macro-F1, as scikit-learn defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_fscore_support

from stages.common.metrics.classification import Score, expected_calibration_error


def multi_label_score(probabilities: NDArray[np.float64], gold: NDArray[np.float64]) -> Score:
    """Compares the probabilities of labels with gold labels. A label is predicted if its probability is above 0.5.

    `accuracy` is the subset accuracy: the share of examples with exactly the gold labels. F1 of a label that is neither
    predicted nor in the gold labels is 0. `ece` is that of single decisions, of which each example has C.

    Args:
        probabilities: [n, C].
        gold: [n, C] of 0 and 1.
    """
    predicted = probabilities > 0.5
    micro_f1, macro_f1 = (f1_score(gold, predicted, average=average, zero_division=0) for average in ("micro", "macro"))
    decisions = np.stack([1 - probabilities.ravel(), probabilities.ravel()], axis=1)
    return Score(
        accuracy=round(float((predicted == gold).all(axis=1).mean()), 6),
        macro_f1=round(float(macro_f1), 6),
        mcc=None,
        ece=round(expected_calibration_error(decisions, gold.ravel().astype(np.int64)), 6),
        exact_match=None,
        num_examples=len(gold),
        micro_f1=round(float(micro_f1), 6),
    )


def per_label_report(
    predicted: NDArray[np.float64], gold: NDArray[np.float64], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns one row per label: precision, recall, F1, and how many examples have it and are predicted to have it.

    Args:
        predicted: [n, C] of 0 and 1.
        gold: [n, C] of 0 and 1.
        labels: [C] all labels.
    """
    metrics = zip(*precision_recall_fscore_support(gold, predicted, zero_division=0), strict=True)
    return [
        {
            "label": label,
            "precision": round(float(precision), 6),
            "recall": round(float(recall), 6),
            "f1": round(float(f1), 6),
            "support": int(support),
            "predicted": int(count),
        }
        for label, (precision, recall, f1, support), count in zip(labels, metrics, predicted.sum(axis=0), strict=True)
    ]
