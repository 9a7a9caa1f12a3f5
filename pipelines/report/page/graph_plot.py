"""Plots the step graph with matplotlib, optionally with the seconds of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cluster.steps.step import Step
from pipelines.kinds import STEP_COLORS
from pipelines.report.page.graph import HEIGHT, PITCH, WIDTH, layout

"""Size of a box and distance of columns, in units of a row."""


def plot_graph(steps: Sequence[Step], seconds: Mapping[str, float] | None = None) -> Figure:
    """Draws the graph.

    Args:
        steps: Upstream before downstream.
        seconds: Step name -> seconds it took, written into its box.
    """

    groups, places, edges = layout(steps)
    num_columns = round(max(x for x, _ in places.values()) / PITCH) + 1
    tallest = round(2 * max(y for _, y in places.values())) + 1
    figure = Figure(figsize=(2.4 * num_columns, 0.55 * tallest + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for start, end in edges:
        (x0, y0), (x1, y1) = places[start], places[end]
        arrow = {"arrowstyle": "-|>", "color": "#999999", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(x1 - WIDTH / 2, y1), xytext=(x0 + WIDTH / 2, y0), arrowprops=arrow, zorder=1)
    for group, names in groups.items():
        x, y = places[group]
        colour = STEP_COLORS.get(group.split("/")[0], "#666666")
        corner, style = (x - WIDTH / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, fc=colour, ec="none", zorder=2))
        axes.text(
            x, y, _label(group, names, seconds or {}), ha="center", va="center", color="white", fontsize=8, zorder=3
        )
    axes.set_xlim(-WIDTH / 2 - 0.1, PITCH * (num_columns - 1) + WIDTH / 2 + 0.1)
    axes.set_ylim(-tallest / 2 - 0.1, tallest / 2 + 0.1)
    return figure


def _label(group: str, names: Sequence[str], seconds: Mapping[str, float]) -> str:
    head, _, last = group.removesuffix("/*").rpartition("/")
    title = f"{head}/\n{last}" if len(group) > 22 else group.removesuffix("/*")
    title += f" x {len(names)}" if len(names) > 1 else ""
    took = sum(seconds.get(name, 0) for name in names)
    return title + (f"  ({took:.0f} s)" if took else "")
