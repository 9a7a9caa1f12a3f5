"""Evaluates trained models: predicts the test set, logs scores, and writes the files of an ensemble member.

A member is any step that writes these files, whatever kind of model it trains:

    held_out_logits.jsonl       [n, C] logits of the labeled set by models that did not learn from the example:
                                cross-validated, or of the untrained model; missing if nothing could be held out
    test_logits.jsonl           [n, C] logits of the test set
    unlabeled_logits.jsonl      [n, C] logits of the unlabeled set
    content_free_logits.jsonl   [3, C] logits of texts without content, for contextual calibration

Each member labels the unlabeled set itself, while its model is in memory; the ensemble only averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from stages.common import figures
from stages.common.data.step_outputs import aligned, read_logits, write_logits
from stages.common.examples import Example, load_examples
from stages.common.losses import classification_loss
from stages.common.metrics.classification import (
    DevScore,
    EvaluationResult,
    Score,
    accuracy_at_coverage,
    reliability_bins,
    softmax,
)
from stages.common.models.config import CONTENT_FREE_TEXTS
from stages.common.problems import Problem, SingleLabel
from stages.common.protocols import LogitModel, Recorder
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import Validation
from stages.common.training.throughput import log_texts_per_second

HELD_OUT_FILE = "held_out_logits.jsonl"
UNLABELED_FILE = "unlabeled_logits.jsonl"
MAX_MISCLASSIFIED = 100
"""Rows of the table of misclassified examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member(EvaluationResult):
    """The result of a step that trains an ensemble member."""

    held_out_accuracy: float | None
    """Accuracy of the held-out logits; None if there are none. Ensembles use it with weights: accuracy."""
    held_out_macro_f1: float | None
    """Macro-F1 of the held-out logits; None if there are none."""


class HeldOutScores(TypedDict):
    """The fields of a `Member` about its held-out logits."""

    held_out_accuracy: float | None
    held_out_macro_f1: float | None


def held_out_scores(
    held_out: NDArray[np.float64] | None, train_set: Sequence[Example], problem: Problem
) -> HeldOutScores:
    """Returns the scores of held-out logits [n, C]; None if there are none."""
    if held_out is None or not train_set:
        return HeldOutScores(held_out_accuracy=None, held_out_macro_f1=None)
    held_out_score = problem.score(held_out, [item.label for item in train_set])
    return HeldOutScores(held_out_accuracy=held_out_score.accuracy, held_out_macro_f1=held_out_score.macro_f1)


def write_member_logits(
    model: LogitModel,
    problem: Problem,
    data: Path,
    out: Path,
    recorder: Recorder,
    held_out: NDArray[np.float64] | None,
) -> Score:
    """Writes the files of a member to `out`; returns its score on the test set.

    Args:
        model: The trained member.
        problem: Its labels, and what it predicts of them.
        data: Files of the split stage.
        out: Folder to write to.
        recorder: Gets progress and scores.
        held_out: [n, C] logits of the labeled set, if any.
    """
    train_set = load_examples(data / "train.jsonl")
    if held_out is not None and train_set:
        write_logits(out / HELD_OUT_FILE, train_set, held_out, problem.labels)
        held_out_score = held_out_scores(held_out, train_set, problem)
        recorder.log_metric("train/held_out_accuracy", held_out_score["held_out_accuracy"] or 0.0)
    unlabeled_set = load_examples(data / "unlabeled.jsonl")
    if unlabeled_set:
        logits = model.predict(unlabeled_set, recorder, "unlabeled examples")
        write_logits(out / UNLABELED_FILE, unlabeled_set, logits, problem.labels)
        fields = unlabeled_set[0].fields
        content_free = [Example(f"neutral-{text}", dict.fromkeys(fields, text)) for text in CONTENT_FREE_TEXTS]
        logits = model.predict(content_free, recorder, "content-free texts")
        write_logits(out / "content_free_logits.jsonl", content_free, logits, problem.labels)
    return evaluate_on_test(model, problem, data, out, recorder)


def evaluate_on_test(model: LogitModel, problem: Problem, data: Path, out: Path, recorder: Recorder) -> Score:
    """Writes `test_logits.jsonl` to `out` and records the scores; returns the score."""
    test_set = load_examples(data / "test.jsonl")
    logits = model.predict(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, problem.labels)
    return log_test_scores(logits, test_set, problem, recorder)


def log_test_scores(
    logits: NDArray[np.float64], test_set: Sequence[Example], problem: Problem, recorder: Recorder
) -> Score:
    """Records the score of [n, C] logits, the metrics per class and, with one label per example, the confusion matrix;
    returns the score.
    """
    gold = [item.label for item in test_set]
    test = problem.score(logits, gold, [item.question for item in test_set])
    for name in ("accuracy", "micro_f1", "macro_f1", "mae", "qwk", "mcc", "ece", "exact_match"):
        if (value := getattr(test, name)) is not None:
            recorder.log_metric(f"test/{name}", value)
    per_class = problem.report(logits, gold)
    recorder.log_table("per_class", per_class)
    if isinstance(problem, SingleLabel):
        recorder.log_figure("confusion", figures.confusion(per_class))
    return test


def dev_validation(
    model: LogitModel, problem: Problem, data: Path, training: TrainingConfig, recorder: Recorder
) -> Validation | None:
    """Returns the evaluation of the dev set; None without early stopping or without a dev set.

    Args:
        model: The model in training.
        problem: Its labels, and what it predicts of them.
        data: Files of the split stage.
        training: Says if training stops early.
        recorder: Gets the progress.
    """
    dev_set = load_examples(data / "dev.jsonl") if training.early_stopping else []
    if not dev_set:
        return None
    gold = problem.gold_of(dev_set)

    def validate() -> DevScore:
        logits = model.predict(dev_set, recorder, "dev set")
        loss = classification_loss(problem.problem_type, torch.from_numpy(logits), torch.from_numpy(gold))
        return DevScore(float(problem.is_right(logits, gold).mean()), float(loss))

    return validate


def evaluate_with_errors(model: LogitModel, problem: Problem, data: Path, out: Path, recorder: Recorder) -> Score:
    """Evaluates the test set, and records speed, calibration and the misclassified examples; returns the score.

    Args:
        model: The trained model.
        problem: Its labels, and what it predicts of them.
        data: Files of the split stage.
        out: Gets `test_logits.jsonl`.
        recorder: Gets the scores, texts per second, the figures `reliability` and `coverage`, and the table
            `misclassified`.
    """
    test = evaluate_on_test(model, problem, data, out, recorder)
    test_set = load_examples(data / "test.jsonl")
    log_texts_per_second(model, test_set, recorder)
    logits = aligned(read_logits(out / "test_logits.jsonl", problem.labels), [item.uid for item in test_set])
    gold = problem.gold_of(test_set)
    options, right = softmax(problem.decision_logits(logits)), problem.decisions(gold)
    recorder.log_figure("reliability", figures.reliability(reliability_bins(options, right), test.ece or 0.0))
    recorder.log_figure("coverage", figures.coverage(accuracy_at_coverage(options, right)))
    predicted, confidence = problem.names(problem.predict(logits)), problem.confidence(problem.probabilities(logits))
    misclassified: list[dict[str, Any]] = [
        {**item.fields, "label": item.label, "predicted": label, "confidence": round(float(value), 4)}
        for item, label, value, is_right in zip(
            test_set, predicted, confidence, problem.is_right(logits, gold), strict=True
        )
        if not is_right
    ]
    misclassified.sort(key=lambda row: -row["confidence"])
    recorder.log_table("misclassified", misclassified[:MAX_MISCLASSIFIED])
    return test
