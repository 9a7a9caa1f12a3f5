"""The bar plot of the leaderboard. It is outside the code digests: a new color or label reruns nothing."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipelines.kinds import KINDS
from pipelines.report.leaderboard import Row

ROW_COLORS = {kind.row: kind.color for kind in KINDS.values() if kind.row}
"""Kind of a row -> its color."""


def plot_leaderboard(rows: tuple[Row, ...], recipe: str) -> Figure:
    """Plots the accuracy or micro-F1 of each row as a horizontal bar, with error bars over seeds."""
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    positions = range(len(rows))[::-1]
    axes.barh(
        list(positions),
        [row.headline[1].mean for row in rows],
        xerr=[row.headline[1].std or 0 for row in rows],
        color=[ROW_COLORS[row.kind] for row in rows],
        error_kw={"ecolor": "#333333", "capsize": 3},
    )
    for y, row in zip(positions, rows, strict=True):
        axes.text(0.01, y, f"{100 * row.headline[1].mean:.1f}", va="center", color="white", fontweight="bold")
    axes.set_yticks(list(positions), [row.name for row in rows])
    axes.set_xlim(0, 1)
    axes.set_xlabel("test " + " or ".join(dict.fromkeys(row.headline[0] for row in rows)))
    axes.set_title(recipe)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    figure.legend(
        handles=[Patch(color=ROW_COLORS[kind], label=kind) for kind in kinds],
        loc="outside lower center",
        ncols=len(kinds) if len(kinds) <= 6 else 4,  # six fit into one line
    )
    return figure
