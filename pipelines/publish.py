"""The report of a run: report.json, .md, .png and .html in `<store>/reports/<recipe>/`, and the table in the
terminal.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.table import Table

TEMPLATES = Path(__file__).parent / "templates"


def build(
    recipe: str,
    result: Mapping[str, Any],
    seconds: Mapping[str, float],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        recipe: Name of the recipe.
        result: Result of the report step: its rows and notes.
        seconds: Step name -> seconds that it took when it was executed.
        run: `executed`, `cached` (numbers of steps) and `wall_s` of this run.
    """
    rows = []
    for row in result["rows"]:
        took = [seconds[step] for step in row["steps"] if step in seconds]
        rows.append({**row, "seconds": round(sum(took), 1) if took else None})
    return {"recipe": recipe, **run, "rows": rows, "notes": list(result["notes"])}


def write(report: Mapping[str, Any], picture: Path, folder: Path) -> Path:
    """Writes all four files; returns the path of report.json.

    Args:
        report: From `build`.
        picture: The leaderboard's PNG.
        folder: Made if need be; earlier reports there are replaced one by one, each at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, folder / ".report.png")
    (folder / ".report.png").replace(folder / "report.png")
    _put(folder / "report.md", markdown(report))
    _put(folder / "report.html", html(report, picture))
    _put(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return folder / "report.json"


def _put(path: Path, text: str) -> None:
    temporary = path.with_name("." + path.name)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


COLUMNS = ("row", "accuracy", "macro-F1", "seeds", "labelled", "unlabelled", "trained", "seconds")
NARROW = 96
"""Terminals with fewer characters get the first columns alone."""


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the leaderboard as text, one cell for each of COLUMNS."""
    return (
        row["name"],
        percent(row["accuracy"]),
        percent(row["macro_f1"]),
        str(row["num_seeds"]),
        f"{row['num_labelled']:,}",
        f"{row['num_unlabelled']:,}",
        short(row["trainable_parameters"]),
        "" if row["seconds"] is None else f"{row['seconds']:,.0f}",
    )


def short(number: int) -> str:
    """`460.8k`, `22.6M`."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)


def percent(spread: Mapping[str, float | None]) -> str:
    """`77.8 ± 0.6`, or `77.8` for a single seed."""
    mean, std = spread["mean"], spread["std"]
    assert mean is not None
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown, the table first."""
    lines = [
        f"# {report['recipe']}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "|".join(["---"] + ["--:"] * (len(COLUMNS) - 1)) + "|",
        *("| " + " | ".join(cells(row)) + " |" for row in report["rows"]),
        "",
        *(f"- {note}" for note in report["notes"]),
        f"- {_run_line(report)}",
    ]
    return "\n".join(lines) + "\n"


def table(report: Mapping[str, Any], width: int) -> Table:
    """The leaderboard for a terminal of `width` characters; `trained` counts parameters."""
    shown = Table(title=f"{report['recipe']}: test accuracy", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    num_columns = len(COLUMNS) if width >= NARROW else 4
    for number, column in enumerate(COLUMNS[:num_columns]):
        shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in report["rows"]:
        style = {"student": "bold green", "ensemble": "bold"}.get(row["kind"])
        shown.add_row(*cells(row)[:num_columns], style=style)
    return shown


def html(report: Mapping[str, Any], picture: Path) -> str:
    """One self-contained page: no script, no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        report=report,
        columns=COLUMNS,
        rows=[(row["kind"], cells(row)) for row in report["rows"]],
        picture=base64.b64encode(picture.read_bytes()).decode(),
        run_line=_run_line(report),
    )


def _run_line(report: Mapping[str, Any]) -> str:
    steps = f"{report['executed']} steps executed, {report['cached']} taken from the store"
    return f"This run: {steps}, {report['wall_s']:.0f} s."
