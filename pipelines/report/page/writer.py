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
    sizes: Mapping[str, int] | None = None,
    speeds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns the content of report.json.

    Args:
        recipe: Name of the recipe.
        result: Result of the report step.
        seconds: Step name -> its duration in seconds.
        run: `executed` and `cached` (numbers of steps) and `wall_s` of this run; optionally `attempts` (their number),
            `versions` and `commit`.
        sizes: Step name -> bytes of its classifier on disk.
        speeds: Step name -> texts per second of its classifier, with one thread; 0 if they were not measured.
    """
    rows = []
    for row in result["rows"]:
        durations = [seconds[step] for step in row["steps"] if step in seconds]
        num_bytes = next((sizes[step] for step in row["steps"] if sizes and step in sizes), None)
        speed = next((speeds[step] for step in row["steps"] if speeds and speeds.get(step)), None)
        measures = {"model_bytes": num_bytes, "texts_per_second": speed}
        rows.append({**row, "seconds": round(sum(durations), 1) if durations else None, **measures})
    lists = {name: list(result[name]) for name in ("comparisons", "notes", "suggestions")}
    names = ("prompt_inits", "learning_curve", "votes", "patterns", "suspects")
    extras = {name: list(result.get(name, ())) for name in names}
    by_step = {name: round(value, 1) for name, value in seconds.items()}
    delivered = result["delivered"]
    return {"recipe": recipe, **run, "rows": rows, "delivered": delivered, **lists, **extras, "step_seconds": by_step}


def write_report(
    report: Mapping[str, Any],
    leaderboard: Path,
    folder: Path,
    details: Mapping[str, Any] | None = None,
    graph: Markup | None = None,
) -> Path:
    """Writes all four files, and returns the path of report.json.

    Args:
        report: Content of report.json.
        leaderboard: The plot of the leaderboard.
        folder: Created if it does not exist. Each file of an earlier report is replaced atomically.
        details: Curves and confidence of pipelines/report/stage.py, if available.
        graph: The graph of steps as SVG, if available.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(leaderboard, folder / ".report.png")
    (folder / ".report.png").replace(folder / "report.png")
    _write(folder / "report.md", report_markdown(report))
    _write(folder / "report.html", report_html(report, details, graph))
    _write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return folder / "report.json"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name("." + path.name)
    temporary.write_text(redact(text), encoding="utf-8")
    temporary.replace(path)


PAGE_ONLY_COLUMNS = ("subset accuracy", "MCC", "exact match", "entity F1", "model MB")
"""Columns that the terminal does not show."""
OPTIONAL_COLUMNS = {
    "subset accuracy": "micro_f1", "micro-F1": "micro_f1", "MAE": "mae", "QWK": "qwk",
    "exact match": "exact_match", "entity F1": "entity_f1", "BLEU": "bleu", "chrF": "chrf", "ROUGE-2": "rouge_2",
    "ROUGE-L": "rouge_l", "P@10": "precision_at_10", "Pearson": "pearson",
    "Spearman": "spearman", "RMSE": "rmse", "model MB": "model_bytes",
}  # fmt: skip
"""Column -> key of a row. These columns are shown if a row has the value."""
MIN_WIDTH = 100
"""Narrower terminals show only the first four columns."""


def page_columns(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the columns of Markdown and HTML."""
    rows = report["rows"]

    def is_shown(column: str) -> bool:
        if column == "accuracy":  # with several labels per example, it is called subset accuracy
            return not rows or any(not row.get("micro_f1") for row in rows)
        return column not in OPTIONAL_COLUMNS or any(row.get(OPTIONAL_COLUMNS[column]) for row in rows)

    return tuple(filter(is_shown, COLUMNS))


def cells(row: Mapping[str, Any], columns: Iterable[str]) -> tuple[str, ...]:
    """Returns a row of the leaderboard as text, with a cell per column."""
    return tuple(COLUMNS[column](row) for column in columns)


def _percent(metric: Mapping[str, Any] | None) -> str:
    return "" if metric is None else html.percent(metric["mean"], metric["std"])


def _number(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    return f"{metric['mean']:.2f}" if metric["std"] is None else f"{metric['mean']:.2f} ± {metric['std']:.2f}"


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "method": lambda row: str(row["name"]),
    "accuracy": lambda row: "" if row.get("micro_f1") or row.get("pearson") else _percent(row["accuracy"]),
    "micro-F1": lambda row: _percent(row.get("micro_f1")),
    "macro-F1": lambda row: "" if row.get("pearson") else _percent(row["macro_f1"]),
    "MAE": lambda row: _number(row.get("mae")),
    "QWK": lambda row: _number(row.get("qwk")),
    "subset accuracy": lambda row: _percent(row["accuracy"]) if row.get("micro_f1") else "",
    "MCC": lambda row: _percent(row["mcc"]),
    "exact match": lambda row: _percent(row["exact_match"]),
    "entity F1": lambda row: _percent(row["entity_f1"]),
    "BLEU": lambda row: _percent(row.get("bleu")),
    "chrF": lambda row: _percent(row.get("chrf")),
    "ROUGE-2": lambda row: _percent(row.get("rouge_2")),
    "ROUGE-L": lambda row: _percent(row.get("rouge_l")),
    "P@10": lambda row: _percent(row.get("precision_at_10")),
    "Pearson": lambda row: _percent(row.get("pearson")),
    "Spearman": lambda row: _percent(row.get("spearman")),
    "RMSE": lambda row: _number(row.get("rmse")),
    "seeds": lambda row: str(row["num_seeds"]),
    "labeled": lambda row: f"{row['num_labeled']:,}",
    "unlabeled": lambda row: f"{row['num_unlabeled']:,}",
    "trainable params": lambda row: html.short(row["trainable_parameters"]),
    "model MB": lambda row: "" if row["model_bytes"] is None else f"{row['model_bytes'] / 1e6:,.1f}",
    "seconds": lambda row: "" if row["seconds"] is None else f"{row['seconds']:,.0f}",
}
"""Column of the leaderboard -> the text of its cell for a row."""


def report_markdown(report: Mapping[str, Any]) -> str:
    """Returns the report as Markdown."""
    columns = page_columns(report)
    lines = [
        f"# {report['recipe']}",
        "",
        *_grid(columns, [cells(row, columns) for row in report["rows"]]),
        "",
        *([f"**{delivered_line(report)}**", ""] if report["delivered"] else []),
        *(f"- {note}" for note in report["notes"]),
        f"- {run_line(report)}",
    ]
    for curve in html.label_curves(report):
        rows = [row["cells"] for row in curve["rows"]]
        head = ("labeled examples", *map(str, curve["sizes"]))
        lines += ["", f"## {curve['title']}", "", *_grid(head, rows)]
    if sizes := html.accuracy_by_size(report["rows"]):
        head = ("parameters", *sizes["columns"])
        lines += ["", "## Accuracy by size", "", *_grid(head, [row["cells"] for row in sizes["rows"]])]
    if votes := html.votes(report["votes"]):
        lines += ["", "## Members of the ensemble", "", *_grid(html.VOTE_COLUMNS, votes)]
    if patterns := html.patterns(report.get("patterns", ())):
        escaped = [tuple(cell.replace("|", "\\|") for cell in row) for row in patterns]
        lines += ["", "## Patterns of the search", "", *_grid(html.PATTERN_COLUMNS, escaped)]
    if suspects := html.suspects(report["suspects"]):
        lines += ["", "## Labels that are probably wrong", "", *_grid(html.SUSPECT_COLUMNS, suspects)]
    for task in html.prompt_inits(report["prompt_inits"]):
        rows = [row["cells"] for row in task["rows"]]
        head = ("method", "init", "accuracy", "final loss")
        lines += ["", f"## Initializations of the prompts of {task['task']}", "", *_grid(head, rows)]
    if report["suggestions"]:
        lines += ["", "## Suggestions", ""]
        lines += [f"- {item['evidence']} {item['action']}" for item in report["suggestions"]]
    return "\n".join(lines) + "\n"


def report_summary(report: Mapping[str, Any]) -> str:
    """Returns a few lines of Markdown for a page that shows the metrics below them."""
    lines = [delivered_line(report)] if report["delivered"] else []
    return "\n\n".join([*lines, f"{run_line(report)} The artifact `report/report.html` has the leaderboard."])


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns a Markdown table, with numbers aligned right."""
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def leaderboard_table(report: Mapping[str, Any], width: int) -> Table:
    """Returns the leaderboard for a terminal of `width` characters."""
    columns = [column for column in page_columns(report) if column not in PAGE_ONLY_COLUMNS]
    columns = columns[: None if width >= MIN_WIDTH else 4]
    title = f"{report['recipe']}: test {columns[1]}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in report["rows"]:
        is_delivered = bool(report["delivered"]) and row["name"] == report["delivered"]["row"]
        style = "bold green" if is_delivered else "bold" if row["kind"] == "ensemble" else None
        table.add_row(*cells(row, columns), style=style)
    return table


def report_html(
    report: Mapping[str, Any], details: Mapping[str, Any] | None = None, graph: Markup | None = None
) -> str:
    """Returns the report as a page. The arguments are those of `write_report`."""
    columns = page_columns(report)
    rows = [cells(row, columns) for row in report["rows"]]
    use = delivered_line(report) if report["delivered"] else ""
    return html.render_page(report, columns, rows, run_line(report), use, details, graph)


def delivered_line(report: Mapping[str, Any]) -> str:
    """Returns which classifier to use and why."""
    return f"Use {report['delivered']['row']}. {report['delivered']['reason']}{speed_of_delivered(report)}"


def speed_of_delivered(report: Mapping[str, Any]) -> str:
    """Returns a sentence, after a space, about the speed of the classifier to use; empty if it was not measured."""
    name = report["delivered"]["row"]
    speed = next((row["texts_per_second"] for row in report["rows"] if row["name"] == name), None)
    return f" It reads {speed:,.0f} texts per second with one thread." if speed else ""


def run_line(report: Mapping[str, Any]) -> str:
    """Returns a sentence about this run."""
    steps = f"{report['executed']} steps executed, {report['cached']} cached"
    if (attempts := report.get("attempts", 0)) > report["executed"]:
        steps += f", {attempts} attempts"
    return f"This run: {steps}, {report['wall_s']:.0f} s."
