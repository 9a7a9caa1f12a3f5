"""The graph as a picture: steps in columns by depth, those that differ by seed alone in one box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.step import Step
from pipelines.commands.planning import grouped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "data": "#9aa0a6",
    "ppt_examples": "#9aa0a6",
    "ppt": "#b06fc9",
    "verbalizer": "#8d6e63",
    "zero_shot": "#c9b458",
    "priming": "#a8923a",
    "pet": "#5b8def",
    "probe": "#3aa6a0",
    "soft_labels": "#2f5fc4",
    "distill": "#1b8a5a",
    "prompts": "#b06fc9",
    "baseline": "#9aa0a6",
    "report": "#444444",
}

WIDTH, HEIGHT, PITCH = 2.0, 0.72, 2.4
"""Size of a box and distance of columns, in units of a row."""


def draw(steps: Sequence[Step], seconds: Mapping[str, float] | None = None) -> Figure:
    """Draws the graph.

    Args:
        steps: Upstream before downstream.
        seconds: Step name -> seconds it took, written into its box.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

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
        colour = COLOURS.get(group.split("/")[0], "#666666")
        corner, style = (x - WIDTH / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, fc=colour, ec="none", zorder=2))
        axes.text(
            x, y, _label(group, names, seconds or {}), ha="center", va="center", color="white", fontsize=8, zorder=3
        )
    axes.set_xlim(-WIDTH / 2 - 0.1, PITCH * (num_columns - 1) + WIDTH / 2 + 0.1)
    axes.set_ylim(-tallest / 2 - 0.1, tallest / 2 + 0.1)
    return figure


def layout(
    steps: Sequence[Step],
) -> tuple[dict[str, list[str]], dict[str, tuple[float, float]], list[tuple[str, str]]]:
    """Where each group of steps stands: in the column of its depth, which is as high as what it needs, on average.

    So a short column stands beside its own upstream, and arrows that pass it by do not run behind its boxes.

    Returns:
        Group -> names of its steps; group -> (x, y) of its middle, y upwards; the edges that no longer way implies.
    """
    groups, edges = grouped(steps)
    depth = _depths(list(groups), edges)
    columns: dict[int, list[str]] = {}
    for group in groups:
        columns.setdefault(depth[group], []).append(group)
    direct = _direct(edges)
    tallest = max(map(len, columns.values()))
    places: dict[str, tuple[float, float]] = {}
    for column, names in sorted(columns.items()):
        needed = [places[start][1] for start, end in direct if end in names]
        room = (tallest - len(names)) / 2
        middle = max(-room, min(room, sum(needed) / max(1, len(needed))))
        for row, group in enumerate(names):
            places[group] = (column * PITCH, middle + (len(names) - 1) / 2 - row)
    return groups, places, direct


def _label(group: str, names: Sequence[str], seconds: Mapping[str, float]) -> str:
    head, _, last = group.removesuffix("/*").rpartition("/")
    title = f"{head}/\n{last}" if len(group) > 22 else group.removesuffix("/*")
    title += f" x {len(names)}" if len(names) > 1 else ""
    took = sum(seconds.get(name, 0) for name in names)
    return title + (f"  ({took:.0f} s)" if took else "")


def _direct(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges that no longer way implies."""
    following: dict[str, set[str]] = {}
    for start, end in edges:
        following.setdefault(start, set()).add(end)

    def reached(start: str) -> set[str]:
        return {far for end in following.get(start, ()) for far in {end} | reached(end)}

    return [(start, end) for start, end in edges if not any(end in reached(item) for item in following[start] - {end})]


def _depths(groups: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Length of the longest way to each group."""
    depth = dict.fromkeys(groups, 0)
    for _ in groups:
        for start, end in edges:
            depth[end] = max(depth[end], depth[start] + 1)
    return depth
