"""Evaluates trained models: predicts the test set, logs scores, and writes the files of an ensemble member.

A member is any step that writes these files, whatever kind of model it trains:

    test_logits.jsonl           [n, C] logits of the test set
    unlabeled_logits.jsonl      [n, C] logits of the unlabeled set
    content_free_logits.jsonl   [3, C] logits of texts without content, for contextual calibration

Each member labels the unlabeled set itself, while its model is in memory; the ensemble only averages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stages.common import figures
from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import read_logits, write_logits
from stages.common.examples import Example
from stages.common.metrics import calibration
from stages.common.metrics.classification import EvaluationResult, Score, per_class_report, score, softmax
from stages.common.models.averaging import CONTENT_FREE_TEXTS
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import LogitModel, Recorder
from stages.common.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Member(EvaluationResult):
    """What a member says of itself. `train_accuracy_before_training` is its weight in an ensemble weighted by accuracy: on the
    labelled set, before training; 0 where there are no labels.
    """

    train_accuracy_before_training: float


def write_member_logits(model: LogitModel, labels: Sequence[str], data: Path, out: Path, recorder: Recorder) -> Score:
    """Writes a member's files to `out`; returns its score on the test set.

    Args:
        model: The trained member.
        labels: [C] labels, in the order of the logits.
        data: Files of the split stage.
        out: Where the files go.
        recorder: Gets progress and the scores.
    """
    pile = load_examples(data / "unlabeled.jsonl")
    if pile:
        write_logits(out / "unlabeled_logits.jsonl", pile, model.predict(pile, recorder, "unlabelled texts"), labels)
        neutral = [Example(f"neutral-{text}", dict.fromkeys(pile[0].fields, text)) for text in CONTENT_FREE_TEXTS]
        write_logits(
            out / "content_free_logits.jsonl", neutral, model.predict(neutral, recorder, "neutral texts"), labels
        )
    return evaluate_on_test(model, labels, data, out, recorder)


def evaluate_on_test(model: LogitModel, labels: Sequence[str], data: Path, out: Path, recorder: Recorder) -> Score:
    """Writes `test_logits.jsonl` to `out` and records the scores; returns the score."""
    test_set = load_examples(data / "test.jsonl")
    logits = model.predict(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, labels)
    return log_test_scores(logits, test_set, labels, recorder)


def log_test_scores(
    logits: NDArray[np.float64], test_set: Sequence[Example], labels: Sequence[str], recorder: Recorder
) -> Score:
    """The score of [n, C] logits on the test set; recorded with the table of classes and the confusion matrix."""

    gold = [item.label or "" for item in test_set]
    found = score(logits, gold, labels, [item.group for item in test_set])
    for name in ("accuracy", "macro_f1", "mcc", "ece", "exact_match"):
        if (value := getattr(found, name)) is not None:
            recorder.log_metric(f"test/{name}", value)
    classes = per_class_report(logits, gold, labels)
    recorder.log_table("per_class", classes)
    recorder.log_figure("confusion", figures.confusion(classes))
    return found


def dev_validation(
    student: TextClassifier, data: Path, loop: TrainingConfig, recorder: Recorder
) -> Callable[[], tuple[float, float]] | None:
    """Accuracy and cross-entropy on the dev set, if `loop` stops early and there is one."""
    dev_set = load_examples(data / "dev.jsonl") if loop.early_stopping else []
    if not dev_set:
        return None

    gold = student.indices(dev_set)

    def validate() -> tuple[float, float]:
        logits = torch.from_numpy(student.predict(dev_set, recorder, "development set"))
        hits = logits.argmax(dim=1) == gold
        return float(hits.double().mean()), float(F.cross_entropy(logits, gold))

    return validate


def finish(student: TextClassifier, data: Path, out: Path, recorder: Recorder) -> Score:
    """What every stage that trains a classifier does last: tests it, writes it and what it got wrong.

    Args:
        student: The trained classifier.
        data: Files of the split stage.
        out: Gets `model/` and `test_logits.jsonl`.
        recorder: Gets the scores, the pictures `reliability` and `coverage`, and a table of the misclassified texts.
    """
    test = evaluate_on_test(student, student.labels, data, out, recorder)
    (out / "model").mkdir()
    student.save(out / "model")
    test_set = load_examples(data / "test.jsonl")
    logits = read_logits(out / "test_logits.jsonl", student.labels)
    _log_calibration(student, test_set, logits, test, recorder)
    guesses = [student.labels[index] for index in logits.argmax(axis=1)]
    wrong = [
        {**item.fields, "label": item.label, "predicted": guess, "confidence": round(float(row.max()), 4)}
        for item, guess, row in zip(test_set, guesses, softmax(logits), strict=True)
        if item.label != guess
    ]
    recorder.log_table("misclassified", sorted(wrong, key=lambda row: -row["confidence"])[:100])
    return test


def _log_calibration(
    student: TextClassifier, test_set: Sequence[Example], logits: NDArray[np.float64], test: Score, recorder: Recorder
) -> None:
    """Records what the confidence of [n, C] logits is worth."""

    probabilities, truth = softmax(logits), student.indices(test_set).numpy()
    recorder.log_figure(
        "reliability", figures.reliability(calibration.reliability_bins(probabilities, truth), test.ece or 0.0)
    )
    recorder.log_figure("coverage", figures.coverage(calibration.accuracy_at_coverage(probabilities, truth)))
