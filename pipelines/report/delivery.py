"""Selects the classifier to use: the one that `predict`, `serve` and the model registry take.

The test set never decides. A classifier that is selected on the test set has a test accuracy that is too high. So the
rule uses the size of models, and accuracies of cross-validation on the labeled data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.kinds import KINDS
from pipelines.report.leaderboard import Row
from stages.common.config import LabelBias

CLASSIFIER_ROWS = frozenset(kind.row for kind in KINDS.values() if kind.is_classifier)
"""Kinds of rows that are classifiers without a language model."""
MIN_STANDARD_ERRORS = 2.0
"""A baseline replaces the students if it leads their teacher by more standard errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """The row of the classifier to use, and a sentence that says what decided."""

    row: str
    reason: str


def select_delivered(rows: Sequence[Row], label_bias: LabelBias = "none") -> Delivered | None:
    """Selects the classifier to use; None if no row is a classifier.

    With soft labels it is the largest student with an encoder. If the cross-validated accuracy of a baseline is
    significantly above that of the ensemble, which teaches the students, it is the baseline with the highest one.
    Without soft labels it is the classifier with the highest cross-validated accuracy, or macro-F1 if the classifiers
    have a bias per label.

    Args:
        rows: The leaderboard.
        label_bias: The bias of the classifiers.
    """
    students = [row for row in rows if row.kind == "student"]
    candidates = [row for row in rows if row.kind in CLASSIFIER_ROWS]
    if students:
        ensemble = next((row for row in rows if row.kind == "ensemble"), None)
        return _taught(students, [row for row in rows if row.kind == "baseline"], ensemble)
    return _supervised(candidates, label_bias) if candidates else None


def _taught(students: Sequence[Row], baselines: Sequence[Row], ensemble: Row | None) -> Delivered:
    """Selects a student, or a baseline that leads the ensemble."""
    teacher = _validated(ensemble) if ensemble else None
    compared = [item for row in baselines if (item := _validated(row))] if teacher else []
    best = max(compared, key=lambda item: item.accuracy, default=None)
    if teacher and best and best.leads(teacher):
        return Delivered(
            row=best.row.name,
            reason=f"Its accuracy in cross-validation on {best.num_examples:,} labeled examples is {best.accuracy:.1%}"
            f", significantly above the {teacher.accuracy:.1%} of the ensemble, which teaches the students.",
        )
    largest = max(students, key=_rank)
    equal = [row for row in students if _rank(row) == _rank(largest)]
    which = "the student"
    if len(students) > 1:
        rank = "the largest" if len(equal) == 1 else "the first of the largest"
        which = f"{rank} of {len(students)} students ({_size(largest):,} parameters)"
    reason = f"It is {which}, trained on the soft labels of the ensemble"
    if teacher and best:
        reason += (
            f", and no baseline is significantly more accurate than the ensemble in cross-validation on "
            f"{teacher.num_examples:,} labeled examples"
        )
    return Delivered(row=largest.name, reason=f"{reason}.")


def _supervised(candidates: Sequence[Row], label_bias: LabelBias) -> Delivered:
    """Selects a classifier that was trained on labeled data only."""
    start = "Because no student learns from unlabeled data, a supervised classifier is used"
    if len(candidates) == 1:
        return Delivered(row=candidates[0].name, reason=f"{start}: the only one.")
    validated = [row for row in candidates if _validated(row)]
    if not validated:
        first = next((row for row in candidates if row.kind == "baseline"), candidates[0])
        return Delivered(row=first.name, reason=f"{start}: the first {first.kind} of the recipe.")
    name, scores = "accuracy", [row.held_out_accuracy or 0.0 for row in validated]
    if label_bias != "none":
        name, scores = "macro-F1", [row.held_out_macro_f1 or 0.0 for row in validated]
    equal = [row for row, score in zip(validated, scores, strict=True) if score == max(scores)]
    best = min(equal, key=_size)
    reason = (
        f"{start}: the one with the highest {name} in cross-validation on {best.num_labeled:,} labeled examples "
        f"({max(scores):.1%})"
    )
    if len(equal) > 1:
        reason += f", and the smallest of {len(equal)} that have it"
    return Delivered(row=best.name, reason=f"{reason}.")


@dataclass(frozen=True, slots=True)
class _Validated:
    """A row with its cross-validated accuracy on `num_examples` labeled examples."""

    row: Row
    accuracy: float
    num_examples: int

    def leads(self, other: _Validated) -> bool:
        """Returns True if the lead is larger than `MIN_STANDARD_ERRORS` of the difference of both proportions."""
        variances = (item.accuracy * (1 - item.accuracy) / item.num_examples for item in (self, other))
        return self.accuracy - other.accuracy > MIN_STANDARD_ERRORS * math.sqrt(sum(variances))


def _validated(row: Row) -> _Validated | None:
    if row.held_out_accuracy is None or not row.num_labeled:
        return None
    return _Validated(row, row.held_out_accuracy, row.num_labeled)


def _rank(row: Row) -> tuple[bool, int]:
    """Returns the order of students: a pretrained encoder reads better than word counts of any number."""
    return row.model != "tfidf", _size(row)


def _size(row: Row) -> int:
    """Returns the number of parameters, trained or frozen."""
    return row.trainable_parameters if row.num_parameters is None else row.num_parameters
