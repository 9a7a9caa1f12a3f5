"""Charts of the page as SVG text.

They scale to a phone and take their colors from the page's light or dark style (classes `axis`, `s0` and so on,
`k-<kind>`). No scripts, no fonts, no external files.
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
"""Classes s0 to s4; further lines begin anew."""
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
    """A small chart of one or more lines.

    Args:
        series: Lines of (x, y), or (x, y, deviation), which is drawn as a whisker.
        x_label: Under the axis.
        y_label: Above the axis.
        x: Ends of the axis; None: those of the data, from 0.
        y: Ends of the axis; None: those of the data.
        dots: Mark each point.
        diagonal: Draw x = y too.
    """
    points = [point for one in series for point in one]
    x0, x1 = x or (0.0, max((point[0] for point in points), default=1.0))
    y0, y1 = y or _ends([point[1] + sign * sum(point[2:]) for point in points for sign in (-1, 1)])
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(point: Sequence[float]) -> tuple[float, float]:
        across, up = ((point[0] - x0) / (x1 - x0 or 1), (point[1] - y0) / (y1 - y0 or 1))
        return round(LEFT + width * across, 1), round(TOP + height * (1 - up), 1)

    parts = []
    for share in (0, 0.5, 1):
        value = y0 + share * (y1 - y0)
        level = TOP + height * (1 - share)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{level + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(
            f'<text x="{LEFT + width * share:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">'
            f"{_number(x0 + share * (x1 - x0))}</text>"
        )
    parts.append(f'<text x="{LEFT + width / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    if diagonal:
        start, end = place((x0, x0)), place((x1, x1))
        parts.append(f'<line class="ideal" x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"/>')
    for number, one in enumerate(series):
        colour = f"s{number % NUM_COLORS}"
        placed = [place(point) for point in one]
        path = " ".join(f"{across},{down}" for across, down in placed)
        parts.append(f'<polyline class="{colour}" points="{path}"/>')
        for point in one:
            if sum(point[2:]):
                (across, high), (_, low) = (place((point[0], point[1] + sign * point[2])) for sign in (1, -1))
                parts.append(f'<line class="{colour}" x1="{across}" x2="{across}" y1="{high}" y2="{low}"/>')
        if dots:
            parts += [f'<circle class="{colour}" cx="{across}" cy="{down}" r="3"/>' for across, down in placed]
    return _svg(parts, WIDTH, HEIGHT, f"{y_label} against {x_label}", "chart")


def graph_svg(steps: Sequence[Step], seconds: Mapping[str, float]) -> Markup:
    """The graph of steps, left to right, with the seconds that each box took; those that differ by seed share a box.

    Args:
        steps: Upstream before downstream.
        seconds: Step name -> seconds it took.
    """
    groups, places, edges = layout(steps)
    left = {name: x / PITCH * COLUMN + 8 for name, (x, _) in places.items()}
    highest = max(y for _, y in places.values())
    top = {name: (highest - y) * ROW + 8 for name, (_, y) in places.items()}
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
            f'<rect class="k-{escape(name.partition("/")[0])}" x="{x:.1f}" y="{y:.1f}" width="{BOX_WIDTH}" '
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


def _label(group: str, members: Sequence[str], seconds: Mapping[str, float]) -> list[str]:
    """Two or three lines: the name, and how many steps in how many seconds."""
    name = group.removesuffix("/*")
    head, slash, last = name.rpartition("/")
    shown = [name] if len(name) <= 24 or not slash else [f"{head}/", last]
    took = sum(seconds.get(member, 0.0) for member in members)
    known = any(member in seconds for member in members)
    times = f"{len(members)} × " if len(members) > 1 else ""
    return [*shown, f"{times}{took / len(members):,.0f} s" if known else times.removesuffix(" × ")]


def _svg(parts: Sequence[str], width: float, height: float, label: str, kind: str) -> Markup:
    inside = "".join(parts)
    return Markup(
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}">{inside}</svg>'
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that starts at 0 unless the values lie far from it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if 0 <= low < high / 2:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _number(value: float) -> str:
    """Short: `0.25`, `3`, `1,200`."""
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"
