"""Writes the report of a run as report.json, .md, .png and .html to `<store>/reports/<recipe>/`, and formats the
leaderboard for the terminal.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table

from cluster.redaction import redact
from pipelines.report.page import html


def build_report(
    recipe: str,
    result: Mapping[str, Any],
    seconds: Mapping[str, float],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        recipe: Name of the recipe.
        result: Result of the report step: its rows, comparisons, notes and advice.
        seconds: Step name -> seconds that it took when it was executed.
        run: Of this run `executed` and `cached` (numbers of steps) and `wall_s`; and what else shall stand in the
            report, such as `versions` and `commit`.
    """
    rows = []
    for row in result["rows"]:
        took = [seconds[step] for step in row["steps"] if step in seconds]
        rows.append({**row, "seconds": round(sum(took), 1) if took else None})
    lists = {name: list(result[name]) for name in ("comparisons", "notes", "advice")}
    extras = {name: list(result.get(name, ())) for name in ("starts", "learning_curve")}
    by_step = {name: round(value, 1) for name, value in seconds.items()}
    return {"recipe": recipe, **run, "rows": rows, **lists, **extras, "step_seconds": by_step}


def write_report(
    report: Mapping[str, Any],
    picture: Path,
    folder: Path,
    details: Mapping[str, Any] | None = None,
    graph: Markup | None = None,
) -> Path:
    """Writes all four files; returns the path of report.json.

    Args:
        report: From `build`.
        picture: The leaderboard's PNG.
        folder: Made if need be; earlier reports there are replaced one by one, each at once.
        details: Curves and confidence for the page, from pipelines/report/page/data.py
        graph: The graph of steps for the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, folder / ".report.png")
    (folder / ".report.png").replace(folder / "report.png")
    _put(folder / "report.md", report_markdown(report))
    _put(folder / "report.html", report_html(report, details, graph))
    _put(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return folder / "report.json"


def _put(path: Path, text: str) -> None:
    temporary = path.with_name("." + path.name)
    temporary.write_text(redact(text), encoding="utf-8")
    temporary.replace(path)


PAGES_ONLY = ("MCC", "exact match", "entity F1")
"""Columns that terminals have no room for."""
SOMETIMES = {"exact match": "exact_match", "entity F1": "entity_f1"}
"""Columns of pages that stand there only where some row has such a score."""
NARROW = 96
"""Terminals with fewer characters get the first columns alone."""


def page_columns(report: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of Markdown and HTML."""

    def is_shown(column: str) -> bool:
        return column not in SOMETIMES or any(row[SOMETIMES[column]] for row in report["rows"])

    return tuple(filter(is_shown, COLUMNS))


def cells(row: Mapping[str, Any], columns: Iterable[str]) -> tuple[str, ...]:
    """A row of the leaderboard as text, one cell a column."""
    return tuple(COLUMNS[column](row) for column in columns)


def flat_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The leaderboard as plain values: a spread becomes its mean and, under `_std`, its deviation."""
    rows = []
    for row in report["rows"]:
        flat: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, Mapping):
                flat |= {name: value["mean"], f"{name}_std": value["std"]}
            elif name != "steps":
                flat[name] = value
        rows.append(flat)
    keys = dict.fromkeys(key for flat in rows for key in flat)
    return [{key: flat.get(key) for key in keys} for flat in rows]


def short(number: int) -> str:
    """`460.8k`, `22.6M`."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)


def percent(spread: Mapping[str, float | None] | None) -> str:
    """`77.8 ± 0.6`, `77.8` for a single seed, nothing for None."""
    if spread is None:
        return ""
    mean, std = spread["mean"], spread["std"]
    assert mean is not None
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "row": lambda row: str(row["name"]),
    "accuracy": lambda row: percent(row["accuracy"]),
    "macro-F1": lambda row: percent(row["macro_f1"]),
    "MCC": lambda row: percent(row["mcc"]),
    "exact match": lambda row: percent(row["exact_match"]),
    "entity F1": lambda row: percent(row["entity_f1"]),
    "seeds": lambda row: str(row["num_seeds"]),
    "labelled": lambda row: f"{row['num_labeled']:,}",
    "unlabelled": lambda row: f"{row['num_unlabeled']:,}",
    "trained": lambda row: short(row["trainable_parameters"]),
    "seconds": lambda row: "" if row["seconds"] is None else f"{row['seconds']:,.0f}",
}
"""Column of the leaderboard -> its cell of a row, as text."""


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown, the leaderboard first."""
    columns = page_columns(report)
    lines = [
        f"# {report['recipe']}",
        "",
        *_grid(columns, [cells(row, columns) for row in report["rows"]]),
        "",
        *(f"- {note}" for note in report["notes"]),
        f"- {run_line(report)}",
    ]
    if curve := html.learning_curve(report["learning_curve"]):
        rows = [row["cells"] for row in curve["rows"]]
        head = ("labelled texts", *map(str, curve["sizes"]))
        lines += ["", "## Accuracy against the number of labels", "", *_grid(head, rows)]
    for task in html.prompt_inits(report["starts"]):
        rows = [row["cells"] for row in task["rows"]]
        head = ("method", "start", "accuracy", "loss")
        lines += ["", f"## Where the prompts of {task['task']} start", "", *_grid(head, rows)]
    if report["advice"]:
        lines += ["", "## What to try next", ""]
        lines += [f"- {item['because']} {item['attempt']}" for item in report["advice"]]
    return "\n".join(lines) + "\n"


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown, figures to the right."""
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def leaderboard_table(report: Mapping[str, Any], width: int) -> Table:
    """The leaderboard for a terminal of `width` characters; `trained` counts parameters."""
    shown = Table(title=f"{report['recipe']}: test accuracy", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = [column for column in COLUMNS if column not in PAGES_ONLY][: None if width >= NARROW else 4]
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in report["rows"]:
        style = {"student": "bold green", "ensemble": "bold"}.get(row["kind"])
        shown.add_row(*cells(row, columns), style=style)
    return shown


def report_html(
    report: Mapping[str, Any], details: Mapping[str, Any] | None = None, graph: Markup | None = None
) -> str:
    """The report as a page; arguments as those of `write`."""
    columns = page_columns(report)
    rows = [cells(row, columns) for row in report["rows"]]
    return html.render_page(report, columns, rows, run_line(report), details, graph)


def run_line(report: Mapping[str, Any]) -> str:
    """What this run did, in a sentence."""
    steps = f"{report['executed']} steps executed, {report['cached']} taken from the store"
    return f"This run: {steps}, {report['wall_s']:.0f} s."
