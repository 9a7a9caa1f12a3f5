"""The report stage: compares what every part of the pipeline scored, and writes the leaderboard, its plot and the
page data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.kinds import PRETRAINED_TO
from pipelines.report.comparisons import PromptInitRow, RowComparison, compare_inits, compare_rows, flat_inits
from pipelines.report.config import ReportConfig
from pipelines.report.leaderboard import MEASURES, Row, leaderboard, plot_leaderboard
from pipelines.report.page.data import page_data
from pipelines.report.suggestions import RunResults, Suggestion, suggest
from stages.common import figures
from stages.common.protocols import Engine, Recorder
from stages.learning_curve.config import FIGURE_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`measured`: files of every measured step."""

    measured: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The leaderboard, beside it starts of prompts and accuracy against labels, where the recipe has some.

    Files: `leaderboard.png`; `starts-<task>.png`; `learning_curve.png`; `details.json`, with what
    pipelines/report/page/data.py gathers.
    """

    rows: tuple[Row, ...]
    comparisons: tuple[RowComparison, ...]
    notes: tuple[str, ...]
    advice: tuple[Suggestion, ...]
    starts: tuple[PromptInitRow, ...]
    learning_curve: tuple[dict[str, Any], ...]


CURVE = "learning_curve/picture"
"""The step that has accuracy against labels."""


def run(config: ReportConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Gathers the results, draws the leaderboard, writes it to `out`."""
    del engine
    results = [json.loads((folder / "result.json").read_text()) for folder in inputs.measured]
    named = dict(zip(config.steps, results, strict=True))
    rows = leaderboard(named, config.task)
    folders = dict(zip(config.steps, inputs.measured, strict=True))
    comparisons = compare_rows(rows, folders, config.seed)
    trained = {row.name: row.steps for row in rows} | {name: (name,) for name in named if name.startswith("ppt/")}
    read = page_data(trained, folders)
    (out / "details.json").write_text(json.dumps(read) + "\n")
    compared = compare_inits(rows, config.starts, read["curves"])
    _plot_inits(compared, out, recorder)
    if CURVE in folders:
        shutil.copyfile(folders[CURVE] / FIGURE_FILE, out / FIGURE_FILE)
    picture = plot_leaderboard(rows, config.recipe)
    picture.savefig(out / "leaderboard.png", dpi=120)
    recorder.log_figure("leaderboard", picture)
    recorder.log_table("leaderboard", [_flat(row) for row in rows])
    for row in rows:
        recorder.log_metric(f"leaderboard/{row.name}/accuracy", row.accuracy.mean)
    return Result(
        rows=rows,
        comparisons=comparisons,
        notes=(*(f"{duel}." for duel in comparisons), *_notes(named)),
        advice=suggest(RunResults(rows, comparisons, named)),
        starts=compared,
        learning_curve=tuple(named[CURVE]["points"]) if CURVE in named else (),
    )


def _plot_inits(compared: Sequence[PromptInitRow], out: Path, recorder: Recorder) -> None:

    for task in dict.fromkeys(item.task for item in compared):
        picture = figures.initializations(task, [asdict(item) for item in compared if item.task == task])
        picture.savefig(out / f"starts-{task}.png", dpi=130)
        recorder.log_figure(f"starts-{task}", picture)
    if compared:
        recorder.log_table("starts", flat_inits([asdict(item) for item in compared]))


def _notes(results: dict[str, dict[str, Any]]) -> list[str]:
    """What is worth knowing beside the table."""
    notes = []
    labels = results.get("soft_labels", {})
    if labels.get("unlabeled"):
        notes.append(
            f"The soft labels are right on {labels['unlabeled']['accuracy']:.1%} of the "
            f"{labels['unlabeled']['num_examples']:,} unlabelled texts (gold labels serve this figure only)."
        )
    if labels.get("dropped"):
        notes.append(f"The ensemble does without {', '.join(labels['dropped'])}, which failed (ensemble.min_members).")
    for name, result in results.items():
        if name.startswith("verbalizer/"):
            chosen = "; ".join(f"{', '.join(words)} for {label}" for label, words in result["words"].items())
            notes.append(f"{name} chose {chosen}.")
        if result.get("num_test_seen"):
            notes.append(f"{name}: {result['num_test_seen']} test texts stand in the training files too: a leak.")
        if name.startswith("ppt/"):
            learnt = PRETRAINED_TO[name.partition("/")[2]]
            notes.append(
                f"{name} learnt to {learnt}: {result['held_out_before']['accuracy']:.1%} before, "
                f"{result['held_out']['accuracy']:.1%} after, on {result['held_out']['num_examples']} held-out ones."
            )
    return notes


def _flat(row: Row) -> dict[str, Any]:
    flat = asdict(row)
    for name in MEASURES:
        measured = flat.pop(name) or {"mean": None, "std": None}
        flat |= {name: measured["mean"], f"{name}_std": measured["std"]}
    flat.pop("steps")
    return flat
