"""The report stage: compares the test results of all steps, and writes the leaderboard, its plot and the page data.

Reads what the page shows in addition to the leaderboard: training curves, calibration and confusion.

The source is the files of the measured steps. The page is therefore the same without a tracking server, and for steps
of earlier runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kinds import KINDS
from pipelines.report.comparisons import PromptInitRow, RowComparison, compare_inits, compare_rows, flat_inits
from pipelines.report.config import MeasuredStep, ReportConfig
from pipelines.report.delivery import Delivered, select_delivered
from pipelines.report.leaderboard import Row, flat_rows, leaderboard
from pipelines.report.leaderboard_plot import plot_leaderboard
from pipelines.report.suggestions import RunResults, Suggestion, suggest
from stages.common import figures
from stages.common.config import SINGLE_LABEL, ProblemType
from stages.common.data.step_outputs import LossPoint, downsample, read_losses
from stages.common.examples import Label, read_label
from stages.common.metrics import classification
from stages.common.metrics.classification import expected_calibration_error, softmax
from stages.common.problems import SingleLabel, problem_of
from stages.common.protocols import Engine, Recorder
from stages.learning_curve.config import FIGURE_FILE
from stages.soft_labels.config import SUSPECTS_FILE

CALIBRATED_ROWS = ("student", "ensemble", "baseline")
"""Kinds of rows whose calibration is shown, in the order of the page."""


def page_data(
    rows: Sequence[Row],
    pretrained: Sequence[str],
    folders: Mapping[str, Path],
    problem_type: ProblemType = SINGLE_LABEL,
) -> dict[str, Any]:
    """Returns `curves` and `confidence` as JSON values.

    Args:
        rows: The leaderboard.
        pretrained: The steps of prompt pretraining, whose curves are shown too.
        folders: Step name -> its files.
        problem_type: Problem of the main task, whose calibration is shown.
    """
    with_losses = {row.name: row.steps for row in rows} | {step: (step,) for step in pretrained}
    curves = {name: _curves(steps, folders) for name, steps in with_losses.items()}
    calibrated = [row for kind in CALIBRATED_ROWS for row in rows if row.kind == kind]
    confidence = {row.name: _calibration(row.steps, folders, problem_type) for row in calibrated}
    return {
        "curves": {name: by_step for name, by_step in curves.items() if by_step},
        "confidence": {name: values for name, values in confidence.items() if values},
    }


def _curves(steps: Sequence[str], folders: Mapping[str, Path]) -> dict[str, list[LossPoint]]:
    """Returns step name -> (optimizer step, loss) of the steps that trained."""
    losses = {step: downsample(read_losses(folders[step])) for step in steps}
    return {step: points for step, points in losses.items() if points}


def _calibration(steps: Sequence[str], folders: Mapping[str, Path], problem_type: ProblemType) -> dict[str, Any] | None:
    """Returns reliability, coverage and confusion over all seeds. Each example counts once per seed.

    With several labels per example, each decision counts, and there is no confusion.
    """
    predictions = [_logits(folders[step] / "test_logits.jsonl") for step in steps]
    known = [item for item in predictions if item is not None]
    if not known or any(labels != known[0][0] for labels, _, _ in known):
        return None
    labels = known[0][0]
    problem = problem_of(labels, problem_type)
    logits = np.concatenate([logits for _, logits, _ in known])
    probabilities = softmax(problem.decision_logits(logits))
    gold = problem.decisions(problem.gold([label for _, _, names in known for label in names]))
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    if isinstance(problem, SingleLabel):
        np.add.at(counts, (gold, probabilities.argmax(axis=1)), 1)
    return {
        "labels": labels,
        "confusion": counts.tolist() if isinstance(problem, SingleLabel) else None,
        "bins": [asdict(item) for item in classification.reliability_bins(probabilities, gold)],
        "ece": round(expected_calibration_error(probabilities, gold), 6),
        "coverage": classification.accuracy_at_coverage(probabilities, gold),
        "num_seeds": len(known),
    }


def _logits(path: Path) -> tuple[list[str], NDArray[np.float64], list[Label | None]] | None:
    """Returns labels [C], logits [n, C] and gold labels [n]; None without logits or gold labels."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    if not lines or any(line["label"] is None for line in lines):
        return None
    labels = list(lines[0]["logits"])
    logits = np.array([[line["logits"][label] for label in labels] for line in lines], dtype=np.float64)
    return labels, logits, [read_label(line["label"]) for line in lines]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`measured` has the files of every measured step."""

    measured: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The leaderboard with the classifier to use, comparisons, notes, suggestions, initializations of prompts, and the
    learning curve.

    Files: `leaderboard.png`; `prompt_inits-<task>.png`, `learning_curve.png` and, for students of several sizes,
    `accuracy_by_size.png` if the recipe has them; `details.json`, the data of pipelines/report/stage.py.
    """

    rows: tuple[Row, ...]
    delivered: Delivered | None
    comparisons: tuple[RowComparison, ...]
    notes: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    prompt_inits: tuple[PromptInitRow, ...]
    learning_curve: tuple[dict[str, Any], ...]
    votes: tuple[dict[str, Any], ...]
    """How much each member of the ensemble counts (stages/soft_labels/stage.py), with the reason."""
    suspects: tuple[dict[str, Any], ...]
    """Labeled examples that are probably mislabeled (stages/soft_labels/suspects.py)."""


def run(config: ReportConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Compares the results and writes the leaderboard."""
    del engine
    steps = config.measured
    folders = {step.name: folder for step, folder in zip(steps, inputs.measured, strict=True)}
    results = {
        name: json.loads((folder / "result.json").read_text(encoding="utf-8")) for name, folder in folders.items()
    }
    rows = leaderboard(steps, results, config.task)
    comparisons = compare_rows(rows, folders, config.seed)
    pretrained = [step.name for step in _of_kind("ppt", steps)]
    details = page_data(rows, pretrained, folders, config.problem_type)
    (out / "details.json").write_text(json.dumps(details) + "\n")
    ensembles = _of_kind("soft_labels", steps)
    prompt_inits = compare_inits(rows, config.prompt_inits, details["curves"])
    _plot_inits(prompt_inits, out, recorder)
    curve_points: list[dict[str, Any]] = []
    for step in _of_kind("learning_curve", steps):
        shutil.copyfile(folders[step.name] / FIGURE_FILE, out / FIGURE_FILE)
        curve_points += results[step.name]["points"]
    figure = plot_leaderboard(rows, config.recipe)
    figure.savefig(out / "leaderboard.png", dpi=120)
    recorder.log_figure("leaderboard", figure)
    sized = [asdict(row) for row in rows if row.student and row.num_parameters is not None]
    if len({row["num_parameters"] for row in sized}) > 1:
        figure = figures.accuracy_by_size(sized)
        figure.savefig(out / "accuracy_by_size.png", dpi=130)
        recorder.log_figure("accuracy_by_size", figure)
    recorder.log_table("leaderboard", flat_rows([asdict(row) for row in rows]))
    for row in rows:
        recorder.log_metric(f"leaderboard/{row.name}/accuracy", row.accuracy.mean)
    return Result(
        rows=rows,
        delivered=select_delivered(rows, config.label_bias),
        comparisons=comparisons,
        notes=(*(f"{item}." for item in comparisons), *_notes(steps, results)),
        suggestions=suggest(
            RunResults(rows, comparisons, {step.name: step for step in steps}, results, config.label_bias)
        ),
        prompt_inits=prompt_inits,
        learning_curve=tuple(curve_points),
        votes=tuple({**vote, "reason": _reason(vote)} for step in ensembles for vote in results[step.name]["votes"]),
        suspects=tuple(row for step in ensembles for row in _suspects(folders[step.name])),
    )


def _reason(vote: Mapping[str, Any]) -> str:
    """Returns why a member counts as much as it does."""
    accuracy = vote["held_out_accuracy"]
    estimated = vote.get("estimated_accuracy", accuracy)  # not in results of release 0.1
    if not vote["weight"]:
        return "not clearly better than a guess"
    if accuracy is None:
        known = "no labeled example can be held out"
        return known if estimated is None else f"{known}, {100 * estimated:.1f}% agreement on the unlabeled data"
    reason = f"{100 * accuracy:.1f}% right on held-out labeled examples"
    return reason if estimated == accuracy else f"{reason}, {100 * estimated:.1f}% estimated with the unlabeled data"


def _suspects(folder: Path) -> list[dict[str, Any]]:
    path = folder / SUSPECTS_FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _plot_inits(prompt_inits: Sequence[PromptInitRow], out: Path, recorder: Recorder) -> None:
    rows = [asdict(item) for item in prompt_inits]
    for task in dict.fromkeys(row["task"] for row in rows):
        figure = figures.initializations(task, [row for row in rows if row["task"] == task])
        figure.savefig(out / f"prompt_inits-{task}.png", dpi=130)
        recorder.log_figure(f"prompt_inits-{task}", figure)
    if rows:
        recorder.log_table("prompt_inits", flat_inits(rows))


def _of_kind(kind: str, steps: Sequence[MeasuredStep]) -> list[MeasuredStep]:
    return [step for step in steps if step.kind == kind]


def _notes(steps: Sequence[MeasuredStep], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns sentences about what the leaderboard does not show."""
    notes = []
    for step in _of_kind("soft_labels", steps):
        result = results[step.name]
        if unlabeled := result.get("unlabeled"):
            notes.append(
                f"The soft labels are correct for {unlabeled['accuracy']:.1%} of the {unlabeled['num_examples']:,} "
                "unlabeled examples. Gold labels are used only for this number."
            )
        if result.get("dropped"):
            notes.append(f"The ensemble lacks {', '.join(result['dropped'])}, which failed (ensemble.min_members).")
    for step in steps:
        name, result = step.name, results[step.name]
        if step.kind == "verbalizer":
            words = "; ".join(f"{', '.join(words)} for {label}" for label, words in result["words"].items())
            notes.append(f"{name} selected {words}.")
        if step.kind == "chain_of_thought":
            notes += _rationale_notes(name, result)
        if result.get("num_test_seen"):
            notes.append(f"{name}: {result['num_test_seen']} test examples are also in the training files (leak).")
        if step.kind == "ppt":
            before, after = result["held_out_before"], result["held_out"]
            notes.append(
                f"{name} learned to {KINDS['ppt'].pretrained_to[step.labels['format']]}: {before['accuracy']:.1%} "
                f"before, {after['accuracy']:.1%} after, on {after['num_examples']} held-out examples."
            )
    return notes


def _rationale_notes(name: str, result: Mapping[str, Any]) -> list[str]:
    """Returns sentences about answers that are missing, tied or cut."""
    notes = []
    if count := result["num_unanswered"]:
        notes.append(
            f"{name}: no answer can be extracted for {count:,} of {result['test']['num_examples']:,} test examples, "
            "which count as wrong."
        )
    if count := result["num_ties"]:
        notes.append(f"{name}: {count:,} votes are ties, in which the label counts that was named first.")
    if count := result["num_cut"]:
        notes.append(f"{name}: {count:,} of {result['num_rationales']:,} rationales end at max_rationale_tokens.")
    return notes
