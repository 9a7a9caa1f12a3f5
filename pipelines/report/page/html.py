"""Renders the report as one self-contained page: no script, no network, readable on a phone, in light and dark mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.report.leaderboard import HEADLINES
from pipelines.report.page import charts

TEMPLATES = Path(__file__).parent
MAX_LABELS = 20
"""The page omits confusion matrices with more labels. MLflow has them."""


def render_page(
    report: Mapping[str, Any],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    run_line: str,
    use: str = "",
    details: Mapping[str, Any] | None = None,
    graph: Markup | None = None,
) -> str:
    """Renders the page.

    Args:
        report: Content of report.json.
        columns: Columns of the leaderboard.
        cells: Rows of the leaderboard as text.
        run_line: A sentence about this run.
        use: Which classifier to use and why, if the run has one.
        details: Curves and confidence of pipelines/report/stage.py, if available.
        graph: The graph of steps as SVG, if available.
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
        rows=list(zip((_style(row, report) for row in report["rows"]), cells, strict=True)),
        bars=[_bar(row) for row in report["rows"]],
        headline=" or ".join(dict.fromkeys(HEADLINES[_headline(row)] for row in report["rows"])),
        prompt_inits=prompt_inits(report.get("prompt_inits", ())),
        label_curves=label_curves(report),
        sizes=accuracy_by_size(report["rows"]),
        vote_columns=VOTE_COLUMNS,
        votes=votes(report.get("votes", ())),
        pattern_columns=PATTERN_COLUMNS,
        patterns=patterns(report.get("patterns", ())),
        suspect_columns=SUSPECT_COLUMNS,
        suspects=suspects(report.get("suspects", ())),
        curves=[_curve(name, runs) for name, runs in details.get("curves", {}).items()],
        confidence=[_calibration(name, values) for name, values in details.get("confidence", {}).items()],
        graph=graph,
        run_line=run_line,
        use=use,
    )


def _style(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Returns the CSS class of a row: its kind, or `delivered`."""
    delivered = report["delivered"]
    return "delivered" if delivered and row["name"] == delivered["row"] else str(row["kind"])


def _breakable(name: str) -> Markup:
    """Allows a line break after each / of a step name."""
    return Markup("/<wbr>").join(name.split("/"))


def _headline(row: Mapping[str, Any]) -> str:
    """Returns the metric of the bar: that which says most about the row."""
    return next(name for name in HEADLINES if row.get(name))


def _bar(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a bar of the headline metric in percent. Its error bar of width `error` starts at `low`, and stays on the
    scale.
    """
    metric = row[_headline(row)]
    mean, std = 100 * metric["mean"], 100 * (metric["std"] or 0)
    return {
        "name": row["name"],
        "kind": row["kind"],
        "mean": round(mean, 2),
        "low": round(max(0.0, mean - std), 2),
        "error": round(min(100.0, mean + std) - max(0.0, mean - std), 2),
        "text": percent(metric["mean"], metric["std"]),
    }


def _curve(name: str, runs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a small chart of the losses of a row, with a line per seed."""
    final = ", ".join(f"{points[-1][1]:.3f}" for points in runs.values())
    chart = charts.line_chart(list(runs.values()), x_label="optimizer step", y_label=f"loss of {name}")
    return {"name": name, "chart": chart, "about": f"{_seeds(len(runs))}, final loss {final}"}


def prompt_inits(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each task a table of methods, and a chart of their losses in the same colors."""
    tables = []
    for task in dict.fromkeys(item["task"] for item in items):
        methods = [item for item in items if item["task"] == task]
        cells = [(item["method"], item["init"], _accuracy(item), _loss(item["last_loss"])) for item in methods]
        chart = charts.line_chart(
            [item["losses"] for item in methods], x_label="optimizer step", y_label=f"loss of the prompts of {task}"
        )
        tables.append({"task": task, "rows": _colored(cells), "chart": chart})
    return tables


def label_curves(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the learning curve and the rounds of labeling, those that the report has.

    Each has `title`, and `noise`: what its standard deviations are over.
    """
    curves = (
        ("Accuracy by number of labeled examples", "samples of the training set", "learning_curve"),
        ("Accuracy by round of labeling", "the seeds of a run", "rounds"),
    )
    found = [(title, noise, learning_curve(report.get(key, ()))) for title, noise, key in curves]
    return [{"title": title, "noise": noise, **curve} for title, noise, curve in found if curve]


def learning_curve(points: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns a table with a row per method and a column per number of labeled examples, and its chart."""
    if not points:
        return None
    methods = list(dict.fromkeys(point["method"] for point in points))
    sizes = sorted({point["num_labeled"] for point in points})
    cells = {(point["method"], point["num_labeled"]): _accuracy(point) for point in points}
    series = [
        [(p["num_labeled"], p["accuracy"], p["accuracy_std"] or 0) for p in points if p["method"] == method]
        for method in methods
    ]
    rows = _colored([(method, *(cells.get((method, size), "") for size in sizes)) for method in methods])
    chart = charts.line_chart(series, x_label="labeled examples", y_label="test accuracy", dots=True)
    return {"sizes": sizes, "rows": rows, "chart": chart, "about": _seeds(points[0]["num_seeds"])}


VOTE_COLUMNS = ("member", "weight", "reason")
SUSPECT_COLUMNS = ("text", "label", "ensemble", "probability")
PATTERN_COLUMNS = ("pattern", "proposed by", "accuracy", "cross-entropy", "step")
MAX_TEXT = 160
"""Characters of a text in a table."""


def votes(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the cells of the table of members, the largest weight first."""
    ordered = sorted(items, key=lambda item: -item["weight"])
    return [(item["member"], f"{100 * item['weight']:.0f}%", item["reason"]) for item in ordered]


def patterns(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the cells of the table of patterns that searches compared, in their order."""
    return [
        (
            item["pattern"].replace("\n", " ⏎ "),
            item["source"],
            f"{100 * item['accuracy']:.1f}%",
            f"{item['loss']:.3f}",
            item["step"],
        )
        for item in items
    ]


def suspects(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the cells of the table of labeled examples that are probably mislabeled."""
    known = ("uid", "label", "predicted", "probability")
    cells: list[tuple[str, ...]] = []
    for item in items:
        text = " / ".join(str(value) for name, value in item.items() if name not in known).replace("\n", " ")
        text = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
        cells.append((text, item["label"], item["predicted"], f"{item['probability']:.2f}"))
    return cells


def accuracy_by_size(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns a table with a column per student, a row per kind (student, baseline) and one for texts per second, and
    its chart.

    None if all students have the same size.
    """
    sized = sorted(
        (row for row in rows if row["student"] and row["num_parameters"]), key=lambda row: int(row["num_parameters"])
    )
    sizes = {row["student"]: row["num_parameters"] for row in sized}
    if len(set(sizes.values())) < 2:
        return None
    kinds = list(dict.fromkeys(row["kind"] for row in sized))
    cells = {(row["kind"], row["student"]): percent(**row["accuracy"]) for row in sized}
    series = [
        [
            (r["num_parameters"] / 1e6, r["accuracy"]["mean"], r["accuracy"]["std"] or 0)
            for r in sized
            if r["kind"] == kind
        ]
        for kind in kinds
    ]
    speeds = {row["student"]: row["texts_per_second"] for row in sized if row.get("texts_per_second")}
    known = (f"{speeds[name]:,.0f}" if name in speeds else "" for name in sizes)
    speed_cells = ("texts per second, one thread", *known)
    table = [(kind, *(cells.get((kind, name), "") for name in sizes)) for kind in kinds]
    return {
        "columns": [f"{name} ({short(size)})" for name, size in sizes.items()],
        "rows": [*_colored(table), *([{"color": "", "cells": speed_cells}] if speeds else [])],
        "chart": charts.line_chart(series, x_label="million parameters", y_label="test accuracy", dots=True),
    }


def short(number: int) -> str:
    """Returns a number such as `460.8k` or `22.6M`."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)


def percent(mean: float, std: float | None) -> str:
    """Returns `77.8 ± 0.6`, or `77.8` for a single seed."""
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _colored(rows: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Adds the color of the line in the chart to each row."""
    return [{"color": f"s{number % charts.NUM_COLORS}", "cells": cells} for number, cells in enumerate(rows)]


def _accuracy(item: Mapping[str, Any]) -> str:
    return percent(item["accuracy"], item["accuracy_std"])


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _calibration(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the confusion matrix, if there is one, with fractions for its colors, and charts of reliability and
    coverage.
    """
    counts, labels = values["confusion"] or [], values["labels"]
    fractions = [[count / max(1, sum(row)) for count in row] for row in counts]
    rows = [list(zip(*pair, strict=True)) for pair in zip(counts, fractions, strict=True)]
    bins = [(item["confidence"], item["accuracy"]) for item in values["bins"]]
    lowest = min((accuracy for _, accuracy in values["coverage"]), default=0.0)
    return {
        "name": name,
        "labels": labels,
        "matrix": list(zip(labels, rows, strict=True)) if counts and len(labels) <= MAX_LABELS else None,
        "ece": values["ece"],
        "about": _seeds(values["num_seeds"]),
        "reliability": charts.line_chart(
            [bins], x_label="confidence", y_label="accuracy", x=(0, 1), y=(0, 1), dots=True, diagonal=True
        ),
        "coverage": charts.line_chart(
            [values["coverage"]],
            x_label="fraction of examples, most confident first",
            y_label="accuracy",
            x=(0, 1),
            y=(max(0.0, round(lowest - 0.05, 1)), 1),
            dots=True,
        ),
    }


def _seeds(count: int) -> str:
    return f"{count} seed" + ("s" if count > 1 else "")
