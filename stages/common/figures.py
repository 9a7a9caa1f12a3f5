"""The figures that stages record. Each figure is plotted from values that the stage already has.

Uses the objects of matplotlib, never pyplot, which keeps global state and is not safe in threads. Line colors are
those of Okabe and Ito, which color-blind readers can distinguish; color maps have monotonic lightness. This module is
outside of all code digests, so a new layout of a figure does not retrain a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stages.common.metrics.classification import Bin, CoveragePoint

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#E69F00", "#009E73", "#7a7a7a"
LINES = (BLUE, ORANGE, GREEN, "#CC79A7", "#D55E00")
MAX_NUMBERS = 12
"""Matrices with more rows show colors only, because numbers would overlap."""
MAX_NAME = 28
"""Longer names of labels and members are truncated."""


def confusion(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots the confusion matrix: one row per gold label, one column per predicted label.

    Args:
        table: From `per_class_report` of stages/common/metrics/classification.py
    """
    names = [str(row["label"]) for row in table]
    counts = np.array([[row[f"predicted {name}"] for name in names] for row in table])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _square(len(names), f"{int(counts.trace()):,} of {int(counts.sum()):,} examples correct")
    _matrix(axes, shares, [[f"{count:,}" for count in row] for row in counts], names, low=0)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("gold label")
    _color_bar(figure, axes, "share of the gold label's examples")
    return figure


def agreement(member_logits: NDArray[np.float64], members: Sequence[str]) -> Figure:
    """Plots how often each pair of members predicts the same label.

    Args:
        member_logits: [M, n, C] logits.
        members: [M] names.
    """
    predicted = member_logits.argmax(axis=2)
    shares = (predicted[:, None, :] == predicted[None, :, :]).mean(axis=2)
    low = min(0.5, float(shares.min()))
    figure, axes = _square(len(members), f"Agreement of members on {predicted.shape[1]:,} examples")
    _matrix(axes, shares, [[f"{share:.2f}" for share in row] for row in shares], members, low=low)
    _color_bar(figure, axes, "share of examples with the same label")
    return figure


def entropy(shares: NDArray[np.float64]) -> Figure:
    """Plots a histogram of the entropy of soft labels.

    Args:
        shares: [n] from `entropies` of stages/common/metrics/classification.py
    """
    figure, axes = _plain("Entropy of the soft labels")
    axes.hist(shares, bins=np.linspace(0, 1, 21).tolist(), color=BLUE, edgecolor="white", linewidth=0.5)
    axes.axvline(float(np.median(shares)), color=ORANGE, linewidth=2, label=f"median {np.median(shares):.2f}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("entropy of a soft label (0: certain, 1: uniform)")
    axes.set_ylabel("examples")
    axes.legend(frameon=False)
    return figure


def reliability(bins: Sequence[Bin], ece: float) -> Figure:
    """Plots accuracy against confidence; a calibrated model is on the diagonal.

    Args:
        bins: From `reliability_bins` of stages/common/metrics/classification.py
        ece: Expected calibration error.
    """
    figure, axes = _plain(f"Reliability: calibration error {ece:.3f}")
    max_count = max((item.count for item in bins), default=1)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1, label="perfect calibration")
    axes.plot([item.confidence for item in bins], [item.accuracy for item in bins], color=BLUE, linewidth=1.5)
    axes.scatter(
        [item.confidence for item in bins],
        [item.accuracy for item in bins],
        s=[20 + 180 * item.count / max_count for item in bins],
        color=BLUE,
        label="size: number of examples",
        zorder=3,
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False, loc="upper left")
    return figure


def coverage(points: Sequence[CoveragePoint]) -> Figure:
    """Plots the accuracy on the most confident examples against their share.

    Args:
        points: From `accuracy_at_coverage` of stages/common/metrics/classification.py
    """
    figure, axes = _plain("Accuracy on the most confident examples")
    axes.plot(
        [point.share for point in points], [point.accuracy for point in points], color=GREEN, marker="o", markersize=4
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(max(0.0, min(point.accuracy for point in points) - 0.05), 1.01)
    axes.set_xlabel("share of examples, the most confident first")
    axes.set_ylabel("accuracy")
    axes.grid(axis="y", alpha=0.3)
    return figure


def norms(values: Sequence[float], vocabulary_mean: float | None = None) -> Figure:
    """Plots the norms of a prompt's vectors.

    Args:
        values: [N] Euclidean norms.
        vocabulary_mean: Mean norm of the vocabulary's embeddings, to compare with.
    """
    figure, axes = _plain("Norms of the prompt's vectors")
    axes.bar(range(1, len(values) + 1), list(values), color=BLUE, width=0.8)
    if vocabulary_mean is not None:
        axes.axhline(vocabulary_mean, color=ORANGE, linewidth=2, label=f"mean of the vocabulary: {vocabulary_mean:.2f}")
        axes.set_ylim(0, 1.2 * max([vocabulary_mean, *values]))
        axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("vector")
    axes.set_ylabel("norm")
    return figure


def learning_curve(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots accuracy against the number of labeled examples, one line per method, with standard deviations.

    Args:
        points: With `method`, `num_labeled`, `accuracy`, `accuracy_std`; in ascending order of `num_labeled`.
    """
    figure, axes = _plain("Accuracy against the number of labeled examples")
    for number, method in enumerate(dict.fromkeys(point["method"] for point in points)):
        line = [point for point in points if point["method"] == method]
        axes.errorbar(
            [point["num_labeled"] for point in line],
            [point["accuracy"] for point in line],
            yerr=[point["accuracy_std"] or 0 for point in line],
            color=LINES[number % len(LINES)],
            marker="o",
            capsize=4,
            label=method,
        )
    sizes = sorted({point["num_labeled"] for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("labeled examples (log scale)")
    axes.set_ylabel("test accuracy")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def accuracy_by_size(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots test accuracy against the number of parameters, with a line per kind of row.

    Args:
        rows: With `kind`, `student`, `num_parameters` and `accuracy`, a mapping of `mean` and `std`.
    """
    figure, axes = _plain("Accuracy by size")
    for number, kind in enumerate(dict.fromkeys(row["kind"] for row in rows)):
        line = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["num_parameters"])
        axes.errorbar(
            [row["num_parameters"] for row in line],
            [row["accuracy"]["mean"] for row in line],
            yerr=[row["accuracy"]["std"] or 0 for row in line],
            color=LINES[number % len(LINES)],
            marker="o",
            capsize=4,
            label=kind,
        )
    for row in rows:
        axes.annotate(
            row["student"], (row["num_parameters"], row["accuracy"]["mean"]), xytext=(6, 6), textcoords="offset points"
        )
    axes.set_xscale("log")
    axes.set_xlabel("parameters (log scale)")
    axes.set_ylabel("test accuracy")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return figure


def initializations(task: str, runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Compares the initializations of a task's prompts: test accuracy over seeds, and mean loss during training.

    Args:
        task: Name of the task.
        runs: With `method`, `init`, `accuracy`, `accuracy_std` and `losses`, pairs of optimizer step and loss.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    scores, curves = figure.subplots(1, 2)
    figure.suptitle(f"Initializations of the prompts of {task}")
    for number, item in enumerate(runs):
        color = LINES[number % len(LINES)]
        scores.errorbar(
            [item["accuracy"]], [number], xerr=[item["accuracy_std"] or 0], color=color, marker="o", capsize=4
        )
        if item["losses"]:
            curves.plot(*zip(*item["losses"], strict=True), color=color, label=item["method"])
    names = ["\n".join(dict.fromkeys((item["method"], item["init"]))) for item in runs]
    scores.set_yticks(list(range(len(runs))), names)
    scores.set_ylim(len(runs) - 0.5, -0.5)
    scores.set_xlabel("test accuracy")
    scores.grid(axis="x", alpha=0.3)
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.set_xlabel("optimizer step")
    curves.set_ylabel("loss, mean over seeds")
    if curves.lines:
        curves.legend(frameon=False)
    for axes in (scores, curves):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


class _Plot(NamedTuple):
    figure: Figure
    axes: Axes


def _plain(title: str) -> _Plot:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return _Plot(figure, axes)


def _square(size: int, title: str) -> _Plot:
    inches = min(14.0, size * (0.62 if size <= MAX_NUMBERS else 0.32))
    figure = Figure(figsize=(3.4 + inches, 2.3 + inches), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    return _Plot(figure, axes)


def _matrix(
    axes: Axes,
    shares: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    low: float,
) -> None:
    """Plots [R, R] values between `low` and 1, with their texts if the matrix is small."""
    axes.imshow(shares, vmin=low, vmax=1, cmap="cividis")
    ticks = range(len(names))
    shown = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names]
    size = 9 if len(names) <= MAX_NUMBERS else 8
    axes.set_xticks(list(ticks), shown, rotation=35, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(list(ticks), shown, fontsize=size)
    if len(names) > MAX_NUMBERS:
        return
    for row in ticks:
        for column in ticks:
            color = "black" if (shares[row, column] - low) / (1 - low or 1) > 0.55 else "white"
            axes.text(column, row, texts[row][column], ha="center", va="center", color=color, fontsize=9)


def _color_bar(figure: Figure, axes: Axes, label: str) -> None:
    figure.colorbar(axes.images[0], ax=axes, shrink=0.8).set_label(label, fontsize=8)
