"""Plots the step graph with matplotlib, optionally with the seconds of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cluster.steps.step import Step
from pipelines.kinds import KINDS
from pipelines.report.page.graph import HEIGHT, PITCH, WIDTH, layout


def plot_graph(steps: Sequence[Step], seconds: Mapping[str, float] | None = None) -> Figure:
    """Plots the graph.

    Args:
        steps: Upstream before downstream.
        seconds: Step name -> its duration in seconds, shown in its box.
    """
    groups, centers, edges = layout(steps)
    num_columns = round(max(x for x, _ in centers.values()) / PITCH) + 1
    tallest = round(2 * max(y for _, y in centers.values())) + 1
    figure = Figure(figsize=(2.4 * num_columns, 0.55 * tallest + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for start, end in edges:
        (x0, y0), (x1, y1) = centers[start], centers[end]
        arrow = {"arrowstyle": "-|>", "color": "#999999", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(x1 - WIDTH / 2, y1), xytext=(x0 + WIDTH / 2, y0), arrowprops=arrow, zorder=1)
    for group, members in groups.items():
        x, y = centers[group]
        color = KINDS[members[0].kind].color
        corner, style = (x - WIDTH / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, fc=color, ec="none", zorder=2))
        axes.text(
            x, y, _label(group, members, seconds or {}), ha="center", va="center", color="white", fontsize=8, zorder=3
        )
    axes.set_xlim(-WIDTH / 2 - 0.1, PITCH * (num_columns - 1) + WIDTH / 2 + 0.1)
    axes.set_ylim(-tallest / 2 - 0.1, tallest / 2 + 0.1)
    return figure


def _label(group: str, members: Sequence[Step], seconds: Mapping[str, float]) -> str:
    head, _, last = group.removesuffix("/*").rpartition("/")
    title = f"{head}/\n{last}" if len(group) > 22 else group.removesuffix("/*")
    title += f" x {len(members)}" if len(members) > 1 else ""
    duration = sum(seconds.get(step.name, 0) for step in members)
    return title + (f"  ({duration:.0f} s)" if duration else "")
