"""The leaderboard: one row per method with mean and standard deviation over its seeds, and its bar plot."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipelines.kinds import ROW_COLORS, ROW_KINDS, ROW_NAMES, SEEDED

MEASURES = ("accuracy", "macro_f1", "mcc", "ece", "exact_match", "entity_f1")
"""Scores that a row carries, by their names in stages/common/metrics/classification.py"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanStd:
    """Mean and sample standard deviation over seeds; `std` is None for a single one."""

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the leaderboard: one method, over all its seeds. `steps` says where the figures come from.

    The scores are those of stages/common/metrics/classification.py, None where they make no sense for a task.
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
    num_seeds: int
    num_test: int
    num_labeled: int
    num_unlabeled: int
    trainable_parameters: int
    steps: tuple[str, ...]


def leaderboard(results: dict[str, dict[str, Any]], task: str) -> tuple[Row, ...]:
    """Groups steps that differ by their seed alone, in the order of `results`.

    Args:
        results: Step name -> its result, as JSON values; steps without test scores are passed over.
        task: Name of the recipe's own task.
    """
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        if "test" in result:
            groups.setdefault(row_name(name), []).append(name)
    return tuple(_row(name, steps, results, task) for name, steps in groups.items())


def row_name(step: str) -> str:
    """`pet/review/0` -> `pet/review`; `probe/mpnet` stays; `soft_labels` -> `ensemble`; `distill/0` -> `student`."""
    kind, *rest = step.split("/")
    if kind in SEEDED and rest and rest[-1].isdigit():
        rest.pop()
    return "/".join([ROW_NAMES.get(kind, kind), *rest])


def _row(name: str, steps: list[str], results: dict[str, dict[str, Any]], task: str) -> Row:
    mine = [results[step] for step in steps]
    kind = steps[0].split("/")[0]
    scores = {
        measure: mean_std([result["test"][measure] for result in mine])
        for measure in MEASURES
        if mine[0]["test"].get(measure) is not None
    }
    return Row(
        name=name,
        kind=ROW_KINDS[kind],
        task=steps[0].split("/")[1] if kind == "prompts" else task,
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        mcc=scores.get("mcc"),
        ece=scores.get("ece"),
        exact_match=scores.get("exact_match"),
        entity_f1=scores.get("entity_f1"),
        num_seeds=len(steps),
        num_test=mine[0]["test"]["num_examples"],
        num_labeled=mine[0]["num_labeled"],
        num_unlabeled=mine[0]["num_unlabeled"],
        trainable_parameters=mine[0]["trainable_parameters"],
        steps=tuple(steps),
    )


def mean_std(values: list[float]) -> MeanStd:
    """Mean and sample standard deviation."""
    std = round(statistics.stdev(values), 6) if len(values) > 1 else None
    return MeanStd(mean=round(statistics.fmean(values), 6), std=std)


def plot_leaderboard(rows: tuple[Row, ...], recipe: str) -> Figure:
    """The leaderboard as horizontal bars of accuracy, with error bars over seeds."""

    figure = Figure(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))[::-1]
    axes.barh(
        list(places),
        [row.accuracy.mean for row in rows],
        xerr=[row.accuracy.std or 0 for row in rows],
        color=[ROW_COLORS[row.kind] for row in rows],
        error_kw={"ecolor": "#333333", "capsize": 3},
    )
    for place, row in zip(places, rows, strict=True):
        axes.text(0.01, place, f"{100 * row.accuracy.mean:.1f}", va="center", color="white", fontweight="bold")
    axes.set_yticks(list(places), [row.name for row in rows])
    axes.set_xlim(0, 1)
    axes.set_xlabel("test accuracy")
    axes.set_title(recipe)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    figure.legend(
        handles=[Patch(color=ROW_COLORS[kind], label=kind) for kind in kinds],
        loc="outside lower center",
        ncols=len(kinds) if len(kinds) <= 6 else 4,  # six fit into one line
    )
    return figure
