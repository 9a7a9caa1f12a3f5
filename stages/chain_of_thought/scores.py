"""Scores of answers. An example without an answer counts as wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import f1_score, matthews_corrcoef

from stages.common.examples import Example
from stages.common.metrics.classification import Score
from stages.common.problems import Problem

NO_ANSWER = -1


def score_answers(predicted: Sequence[str | None], examples: Sequence[Example], problem: Problem) -> Score:
    """Compares answers with the gold labels.

    Without an answer, accuracy, exact match, macro-F1 and Matthews correlation count none of the labels as predicted,
    and the measures of ordered labels the one that is farthest from the right label. Answers have no probabilities, so
    there is no calibration error.

    Args:
        predicted: [n] label of each example; None without an answer.
        examples: [n] examples with their labels.
        problem: The labels.
    """
    truth_n, last = problem.gold_of(examples), len(problem.labels) - 1
    predicted_n = np.array([NO_ANSWER if name is None else problem.labels.index(name) for name in predicted])
    farthest_n = np.where(truth_n * 2 > last, 0, last)
    counted_n = np.where(predicted_n == NO_ANSWER, farthest_n, predicted_n)
    score = problem.score(
        np.eye(last + 1)[counted_n], [item.label for item in examples], [item.question for item in examples]
    )
    macro_f1 = f1_score(truth_n, predicted_n, labels=range(last + 1), average="macro", zero_division=0)
    return replace(
        score,
        macro_f1=round(float(macro_f1), 6),
        mcc=round(float(matthews_corrcoef(truth_n, predicted_n)), 6),
        ece=None,
    )
