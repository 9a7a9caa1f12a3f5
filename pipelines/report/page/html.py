"""Renders the report as one self-contained page: no script, no network, readable on a phone, in light and dark mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.report.page import charts

TEMPLATES = Path(__file__).parent
MAX_LABELS = 20
"""A confusion matrix with more labels is left out of the page; it is in the tracking."""


def render_page(
    report: Mapping[str, Any],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    run_line: str,
    details: Mapping[str, Any] | None = None,
    graph: Markup | None = None,
) -> str:
    """The page.

    Args:
        report: Content of report.json.
        columns: Head of the leaderboard.
        cells: Its rows, as text.
        run_line: What this run did, in a sentence.
        details: Curves and confidence, from pipelines/report/page/data.py; None: without them.
        graph: The graph of steps as SVG; None: without it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    details = details or {}
    return environment.get_template("report.html").render(
        report=report,
        columns=columns,
        rows=list(zip((row["kind"] for row in report["rows"]), cells, strict=True)),
        bars=[_bar(row) for row in report["rows"]],
        starts=prompt_inits(report.get("starts", ())),
        learning=learning_curve(report.get("learning_curve", ())),
        curves=[_curve(name, runs) for name, runs in details.get("curves", {}).items()],
        confidence=[_calibration(name, found) for name, found in details.get("confidence", {}).items()],
        graph=graph,
        run_line=run_line,
    )


def _breakable(name: str) -> Markup:
    """A step's name that narrow pages may break behind each /."""
    return Markup("/<wbr>").join(name.split("/"))


def _bar(row: Mapping[str, Any]) -> dict[str, Any]:
    """A bar of accuracy in percent, with its error bar from `low` to `high`, which stay on the scale."""
    mean, std = 100 * row["accuracy"]["mean"], 100 * (row["accuracy"]["std"] or 0)
    text = f"{mean:.1f}" + (f" ± {std:.1f}" if row["accuracy"]["std"] is not None else "")
    return {
        "name": row["name"],
        "kind": row["kind"],
        "mean": round(mean, 2),
        "low": round(max(0.0, mean - std), 2),
        "wide": round(min(100.0, mean + std) - max(0.0, mean - std), 2),
        "text": text,
    }


def _curve(name: str, runs: Mapping[str, Any]) -> dict[str, Any]:
    """A small chart of the losses of a row, a line for each seed."""
    ends = ", ".join(f"{points[-1][1]:.3f}" for points in runs.values())
    chart = charts.line_chart(list(runs.values()), x_label="optimizer step", y_label=f"loss of {name}")
    return {"name": name, "chart": chart, "about": f"{_seeds(len(runs))}, ends at {ends}"}


def prompt_inits(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each task the methods with their colours, and a chart of their losses."""
    found = []
    for task in dict.fromkeys(item["task"] for item in compared):
        mine = [item for item in compared if item["task"] == task]
        rows = [
            {
                "colour": f"s{number % charts.NUM_COLORS}",
                "cells": (item["method"], item["start"], _percent(item), _loss(item["last_loss"])),
            }
            for number, item in enumerate(mine)
        ]
        chart = charts.line_chart(
            [item["losses"] for item in mine], x_label="optimizer step", y_label=f"loss of the prompts of {task}"
        )
        found.append({"task": task, "rows": rows, "chart": chart})
    return found


def learning_curve(points: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A row for each method, a column for each number of labels; and the chart of both."""
    if not points:
        return None
    methods = list(dict.fromkeys(point["method"] for point in points))
    sizes = sorted({point["num_labeled"] for point in points})
    cells = {(point["method"], point["num_labeled"]): _percent(point) for point in points}
    series = [
        [(p["num_labeled"], p["accuracy"], p["accuracy_std"] or 0) for p in points if p["method"] == method]
        for method in methods
    ]
    rows = [
        {
            "colour": f"s{number % charts.NUM_COLORS}",
            "cells": (method, *(cells.get((method, size), "") for size in sizes)),
        }
        for number, method in enumerate(methods)
    ]
    chart = charts.line_chart(series, x_label="labelled texts", y_label="test accuracy", dots=True)
    return {"sizes": sizes, "rows": rows, "chart": chart, "about": _seeds(points[0]["num_seeds"])}


def _percent(item: Mapping[str, Any]) -> str:
    std = item["accuracy_std"]
    return f"{100 * item['accuracy']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _calibration(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Confusion matrix with shares for its colours, reliability and coverage."""
    shares = [[count / max(1, sum(row)) for count in row] for row in found["confusion"]]
    labels = found["labels"]
    rows = [list(zip(*pair, strict=True)) for pair in zip(found["confusion"], shares, strict=True)]
    bins = [(item["confidence"], item["accuracy"]) for item in found["bins"]]
    lowest = min((accuracy for _, accuracy in found["coverage"]), default=0.0)
    return {
        "name": name,
        "labels": labels,
        "matrix": list(zip(labels, rows, strict=True)) if len(labels) <= MAX_LABELS else None,
        "ece": found["ece"],
        "about": _seeds(found["num_seeds"]),
        "reliability": charts.line_chart(
            [bins], x_label="confidence", y_label="accuracy", x=(0, 1), y=(0, 1), dots=True, diagonal=True
        ),
        "coverage": charts.line_chart(
            [found["coverage"]],
            x_label="share of texts answered, surest first",
            y_label="accuracy",
            x=(0, 1),
            y=(max(0.0, round(lowest - 0.05, 1)), 1),
            dots=True,
        ),
    }


def _seeds(count: int) -> str:
    return f"{count} seed" + ("s" if count > 1 else "")
