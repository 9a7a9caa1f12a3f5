"""The leaderboard: one row per method with mean and standard deviation over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.kinds import KINDS
from pipelines.report.config import MeasuredStep

TEXT_METRICS = ("bleu", "chrf", "rouge_2", "rouge_l")
"""The metrics of generated texts, named as in stages/generation/metrics.py."""
NUMBER_METRICS = ("pearson", "spearman", "rmse")
"""The metrics of predicted numbers, named as in stages/regression/metrics.py."""
METRICS = (
    "accuracy", "micro_f1", "macro_f1", "mae", "qwk", "mcc", "ece", "exact_match", "entity_f1", "precision_at_10",
    *TEXT_METRICS, *NUMBER_METRICS,
)  # fmt: skip
"""The metrics of a row, named as in stages/common/metrics/classification.py."""
HEADLINES = {"pearson": "Pearson correlation", "micro_f1": "micro-F1", "accuracy": "accuracy"}
"""Metric -> its name. The first of these that a row has says most about it."""
MEMBER_ROWS = frozenset(kind.row for kind in KINDS.values() if kind.votes)
"""Kinds of rows that can be members of the ensemble."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanStd:
    """Mean and sample standard deviation over seeds. `std` is None for a single seed."""

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the leaderboard: the mean of a method over its seeds. `steps` are the steps that were averaged.

    A metric is None if it is not defined for the task. Of a task with several labels per example, `accuracy` is the
    subset accuracy, and only these tasks have `micro_f1`; only tasks with ordered labels have `mae` and `qwk`,
    only generated texts `bleu`, `chrf`, `rouge_2` and `rouge_l`, only facts `precision_at_10`, and only predicted
    numbers `pearson`, `spearman` and `rmse` (their `accuracy` and `macro_f1` are of the two halves of the range).
    `student` is the name of the student, for a student and its baseline; else it is empty. `model` is its kind,
    `encoder` or `tfidf`. `num_parameters` counts the trained and frozen parameters of a classifier; it is None for
    other rows. `held_out_accuracy` and `held_out_macro_f1` are measured on held-out parts of the labeled set, the mean
    over the seeds that measured them; None if there are none.
    """

    name: str
    kind: str
    task: str
    accuracy: MeanStd
    macro_f1: MeanStd
    mcc: MeanStd | None
    ece: MeanStd | None
    exact_match: MeanStd | None
    entity_f1: MeanStd | None
    micro_f1: MeanStd | None = None
    mae: MeanStd | None = None
    qwk: MeanStd | None = None
    bleu: MeanStd | None = None
    chrf: MeanStd | None = None
    rouge_2: MeanStd | None = None
    rouge_l: MeanStd | None = None
    precision_at_10: MeanStd | None = None
    pearson: MeanStd | None = None
    spearman: MeanStd | None = None
    rmse: MeanStd | None = None
    num_seeds: int
    num_test: int
    num_labeled: int
    num_unlabeled: int
    trainable_parameters: int
    student: str
    model: str
    num_parameters: int | None
    held_out_accuracy: float | None
    held_out_macro_f1: float | None
    steps: tuple[str, ...]

    @property
    def headline(self) -> tuple[str, MeanStd]:
        """Returns name and value of the metric that says most: accuracy or, of several labels per example, micro-F1, or
        Pearson correlation of numbers.
        """
        name = next(name for name in HEADLINES if getattr(self, name) is not None)
        metric: MeanStd = getattr(self, name)
        return HEADLINES[name], metric


def leaderboard(steps: Sequence[MeasuredStep], results: Mapping[str, Mapping[str, Any]], task: str) -> tuple[Row, ...]:
    """Averages the steps of each row, in the order of `steps`.

    Args:
        steps: The measured steps. Steps without a row are skipped.
        results: Step name -> its result, as JSON values.
        task: Name of the main task.
    """
    groups: dict[str, list[MeasuredStep]] = {}
    for step in steps:
        if KINDS[step.kind].row:
            groups.setdefault(step.labels["row"], []).append(step)
    return tuple(_row(group, [results[step.name] for step in group], task) for group in groups.values())


def _row(steps: Sequence[MeasuredStep], results: Sequence[Mapping[str, Any]], task: str) -> Row:
    first, labels = results[0], steps[0].labels
    metrics = {
        metric: mean_std([result["test"][metric] for result in results])
        for metric in METRICS
        if first["test"].get(metric) is not None
    }
    return Row(
        name=labels["row"],
        kind=KINDS[steps[0].kind].row,
        task=labels.get("task", task),
        accuracy=metrics["accuracy"],
        macro_f1=metrics["macro_f1"],
        mcc=metrics.get("mcc"),
        ece=metrics.get("ece"),
        exact_match=metrics.get("exact_match"),
        entity_f1=metrics.get("entity_f1"),
        micro_f1=metrics.get("micro_f1"),
        mae=metrics.get("mae"),
        qwk=metrics.get("qwk"),
        bleu=metrics.get("bleu"),
        chrf=metrics.get("chrf"),
        rouge_2=metrics.get("rouge_2"),
        rouge_l=metrics.get("rouge_l"),
        precision_at_10=metrics.get("precision_at_10"),
        pearson=metrics.get("pearson"),
        spearman=metrics.get("spearman"),
        rmse=metrics.get("rmse"),
        num_seeds=len(steps),
        num_test=first["test"]["num_examples"],
        num_labeled=first["num_labeled"],
        num_unlabeled=first["num_unlabeled"],
        trainable_parameters=first["trainable_parameters"],
        student=labels.get("student", ""),
        model=labels.get("model", ""),
        num_parameters=first.get("num_parameters"),
        held_out_accuracy=_mean_of_known([result.get("held_out_accuracy") for result in results]),
        held_out_macro_f1=_mean_of_known([result.get("held_out_macro_f1") for result in results]),
        steps=tuple(step.name for step in steps),
    )


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 6) if known else None


def mean_std(values: list[float]) -> MeanStd:
    """Returns mean and sample standard deviation."""
    std = round(statistics.stdev(values), 6) if len(values) > 1 else None
    return MeanStd(mean=round(statistics.fmean(values), 6), std=std)


def flat_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows, as JSON values, as a table of plain values. The deviation of a metric has the suffix `_std`."""
    table = []
    for row in rows:
        metrics = {name: row.get(name) or {"mean": None, "std": None} for name in METRICS}
        means = {name: metric["mean"] for name, metric in metrics.items()}
        deviations = {f"{name}_std": metric["std"] for name, metric in metrics.items()}
        table.append({name: value for name, value in {**row, **means, **deviations}.items() if name != "steps"})
    return table
