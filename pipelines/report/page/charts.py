"""Charts of the page as SVG text, without scripts, fonts or external files.

They fit on a phone and use the colors of the page in light and dark mode (classes `axis`, `s0` to `s4`, `k-<kind>`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from cluster.steps.step import Step
from pipelines.report.page.graph import PITCH, layout

Points = Sequence[Sequence[float]]
WIDTH, HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 38
NUM_COLORS = 5
"""Classes s0 to s4, used in turn."""
BOX_WIDTH, BOX_HEIGHT, COLUMN, ROW = 172, 50, 206, 60


def line_chart(
    series: Sequence[Points],
    *,
    x_label: str,
    y_label: str,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    dots: bool = False,
    diagonal: bool = False,
) -> Markup:
    """Draws a small line chart.

    Args:
        series: Lines of (x, y), or of (x, y, deviation) with error bars.
        x_label: Label under the x axis.
        y_label: Used in the description of the chart.
        x: Limits of the x axis. Default: from 0 to the maximum.
        y: Limits of the y axis. Default: from the data.
        dots: Mark each point.
        diagonal: Draw x = y.
    """
    points = [point for one in series for point in one]
    x0, x1 = x or (0.0, max((point[0] for point in points), default=1.0))
    y0, y1 = y or _limits([point[1] + sign * sum(point[2:]) for point in points for sign in (-1, 1)])
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def position(point: Sequence[float]) -> tuple[float, float]:
        across, up = ((point[0] - x0) / (x1 - x0 or 1), (point[1] - y0) / (y1 - y0 or 1))
        return round(LEFT + width * across, 1), round(TOP + height * (1 - up), 1)

    parts = []
    for fraction in (0, 0.5, 1):
        value = y0 + fraction * (y1 - y0)
        level = TOP + height * (1 - fraction)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{level + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for fraction, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(
            f'<text x="{LEFT + width * fraction:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">'
            f"{_number(x0 + fraction * (x1 - x0))}</text>"
        )
    parts.append(f'<text x="{LEFT + width / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    if diagonal:
        start, end = position((x0, x0)), position((x1, x1))
        parts.append(f'<line class="ideal" x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"/>')
    for number, one in enumerate(series):
        color = f"s{number % NUM_COLORS}"
        placed = [position(point) for point in one]
        path = " ".join(f"{across},{down}" for across, down in placed)
        parts.append(f'<polyline class="{color}" points="{path}"/>')
        for point in one:
            if sum(point[2:]):
                (across, high), (_, low) = (position((point[0], point[1] + sign * point[2])) for sign in (1, -1))
                parts.append(f'<line class="{color}" x1="{across}" x2="{across}" y1="{high}" y2="{low}"/>')
        if dots:
            parts += [f'<circle class="{color}" cx="{across}" cy="{down}" r="3"/>' for across, down in placed]
    return _svg(parts, WIDTH, HEIGHT, f"{y_label} against {x_label}", "chart")


def graph_svg(steps: Sequence[Step], seconds: Mapping[str, float]) -> Markup:
    """Draws the graph of steps from left to right. Steps that differ only in the seed share a box with their seconds.

    Args:
        steps: Upstream before downstream.
        seconds: Step name -> its duration in seconds.
    """
    groups, centers, edges = layout(steps)
    left = {name: x / PITCH * COLUMN + 8 for name, (x, _) in centers.items()}
    highest = max(y for _, y in centers.values())
    top = {name: (highest - y) * ROW + 8 for name, (_, y) in centers.items()}
    parts = [
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="tip" d="M0,0 L6,3 L0,6 z"/></marker></defs>'
    ]
    for start, end in edges:
        x0, y0 = left[start] + BOX_WIDTH, top[start] + BOX_HEIGHT / 2
        x1, y1 = left[end], top[end] + BOX_HEIGHT / 2
        bend = min(60.0, (x1 - x0) / 2)
        parts.append(
            f'<path class="edge" marker-end="url(#tip)" d="M{x0:.1f},{y0:.1f} C{x0 + bend:.1f},{y0:.1f} '
            f'{x1 - bend:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"/>'
        )
    for name, members in groups.items():
        x, y = left[name], top[name]
        parts.append(
            f'<rect class="k-{members[0].kind}" x="{x:.1f}" y="{y:.1f}" width="{BOX_WIDTH}" '
            f'height="{BOX_HEIGHT}" rx="7"/>'
        )
        texts = _label(name, members, seconds)
        middle, first = x + BOX_WIDTH / 2, y + BOX_HEIGHT / 2 + 4 - 7.5 * (len(texts) - 1)
        parts += [
            f'<text x="{middle:.1f}" y="{first + 15 * number:.1f}" text-anchor="middle">{escape(line)}</text>'
            for number, line in enumerate(texts)
        ]
    width = max(left.values()) + BOX_WIDTH + 8
    height = max(top.values()) + BOX_HEIGHT + 8
    return _svg(parts, width, height, "Graph of the steps, from data to report", "graph")


def _label(group: str, members: Sequence[Step], seconds: Mapping[str, float]) -> list[str]:
    """Returns two or three lines: the name, and the number and mean seconds of the steps."""
    name = group.removesuffix("/*")
    head, slash, last = name.rpartition("/")
    shown = [name] if len(name) <= 24 or not slash else [f"{head}/", last]
    total = sum(seconds.get(step.name, 0.0) for step in members)
    is_known = any(step.name in seconds for step in members)
    times = f"{len(members)} × " if len(members) > 1 else ""
    return [*shown, f"{times}{total / len(members):,.0f} s" if is_known else times.removesuffix(" × ")]


def _svg(parts: Sequence[str], width: float, height: float, label: str, kind: str) -> Markup:
    inside = "".join(parts)
    return Markup(
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}">{inside}</svg>'
    )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns the limits of an axis. It starts at 0 unless all values are far from 0."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if 0 <= low < high / 2:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _number(value: float) -> str:
    """Returns a short number: `0.25`, `3`, `1,200`."""
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"
