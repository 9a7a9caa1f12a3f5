"""The report stage: what every part of the pipeline scored, side by side, as a leaderboard and a picture."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from pipelines.advising.advice import Advice, Facts, advise
from pipelines.reporting.comparisons import Duel, duels
from pipelines.reporting.details import details
from pipelines.reporting.starts import Start, starts
from stages import learning_curve
from stages.protocols import Engine, Recorder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MEASURES = ("accuracy", "macro_f1", "mcc", "ece", "exact_match", "entity_f1")
"""Scores that a row carries, by their names in stages/measures/metrics.py."""


class Config(BaseModel, frozen=True, extra="forbid"):
    """Whose results are compared."""

    recipe: str = Field(description="Name of the recipe.")
    task: str = Field(description="Name of the recipe's own task.")
    steps: tuple[str, ...] = Field(description="Names of the measured steps, in the order of the inputs.")
    starts: dict[str, str] = Field({}, description="Method of prompts -> what its prompts start from.")
    seed: int = Field(0, description="Seed of the bootstrap that compares methods.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`measured`: files of every measured step."""

    measured: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean and sample standard deviation over seeds; `std` is None for a single one."""

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the leaderboard: one method, over all its seeds. `steps` says where the figures come from.

    The scores are those of stages/measures/metrics.py, None where they make no sense for a task.
    """

    name: str
    kind: str
    task: str
    accuracy: Spread
    macro_f1: Spread
    mcc: Spread | None
    ece: Spread | None
    exact_match: Spread | None
    entity_f1: Spread | None
    num_seeds: int
    num_test: int
    num_labelled: int
    num_unlabelled: int
    trainable_parameters: int
    steps: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The leaderboard, beside it starts of prompts and accuracy against labels, where the recipe has some.

    Files: `leaderboard.png`; `starts-<task>.png`; `learning_curve.png`; `details.json`, with what
    pipelines/reporting/details.py gathers.
    """

    rows: tuple[Row, ...]
    comparisons: tuple[Duel, ...]
    notes: tuple[str, ...]
    advice: tuple[Advice, ...]
    starts: tuple[Start, ...]
    learning_curve: tuple[dict[str, Any], ...]


CURVE = "learning_curve/picture"
"""The step that has accuracy against labels."""

KINDS = {
    "baseline": "baseline",
    "zero_shot": "zero-shot",
    "pet": "sub-model",
    "probe": "probe",
    "priming": "priming",
    "soft_labels": "ensemble",
    "distill": "student",
    "prompts": "prompt",
}
"""First part of a step's name -> what a row of such steps is."""

TAUGHT = {
    "pair": "relate sentences",
    "choice": "find the next sentence",
    "single": "label sentences",
    "unified": "choose among sentences",
}
"""Second part of the name of a pretraining step -> what its prompt learnt."""

SEEDED = ("baseline", "pet", "priming", "distill", "prompts")
"""First part of the names that end in a seed."""

ROW_NAMES = {"soft_labels": "ensemble", "distill": "student"}
"""First part of a step's name -> first part of its row's name, where they differ."""


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Gathers the results, draws the leaderboard, writes it to `out`."""
    del engine
    results = [json.loads((folder / "result.json").read_text()) for folder in inputs.measured]
    named = dict(zip(config.steps, results, strict=True))
    rows = leaderboard(named, config.task)
    folders = dict(zip(config.steps, inputs.measured, strict=True))
    comparisons = duels(rows, folders, config.seed)
    trained = {row.name: row.steps for row in rows} | {name: (name,) for name in named if name.startswith("ppt/")}
    read = details(trained, folders)
    (out / "details.json").write_text(json.dumps(read) + "\n")
    compared = starts(rows, config.starts, read["curves"])
    _draw_starts(compared, out, recorder)
    if CURVE in folders:
        shutil.copyfile(folders[CURVE] / learning_curve.PICTURE, out / learning_curve.PICTURE)
    picture = draw(rows, config.recipe)
    picture.savefig(out / "leaderboard.png", dpi=120)
    recorder.figure("leaderboard", picture)
    recorder.table("leaderboard", [_flat(row) for row in rows])
    for row in rows:
        recorder.metric(f"leaderboard/{row.name}/accuracy", row.accuracy.mean)
    return Result(
        rows=rows,
        comparisons=comparisons,
        notes=(*(f"{duel}." for duel in comparisons), *_notes(named)),
        advice=advise(Facts(rows, comparisons, named)),
        starts=compared,
        learning_curve=tuple(named[CURVE]["points"]) if CURVE in named else (),
    )


def _draw_starts(compared: Sequence[Start], out: Path, recorder: Recorder) -> None:
    from stages.measures import pictures

    for task in dict.fromkeys(item.task for item in compared):
        picture = pictures.starts(task, [asdict(item) for item in compared if item.task == task])
        picture.savefig(out / f"starts-{task}.png", dpi=130)
        recorder.figure(f"starts-{task}", picture)
    if compared:
        recorder.table("starts", flat_starts([asdict(item) for item in compared]))


def flat_starts(compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparison of starts as a table of plain values: all but the curves."""
    return [{name: value for name, value in item.items() if name != "losses"} for item in compared]


def leaderboard(results: dict[str, dict[str, Any]], task: str) -> tuple[Row, ...]:
    """Groups steps that differ by their seed alone, in the order of `results`.

    Args:
        results: Step name -> its result, as JSON values; steps without test scores are passed over.
        task: Name of the recipe's own task.
    """
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        if "test" in result:
            groups.setdefault(row_name(name), []).append(name)
    return tuple(_row(name, steps, results, task) for name, steps in groups.items())


def row_name(step: str) -> str:
    """`pet/review/0` -> `pet/review`; `probe/mpnet` stays; `soft_labels` -> `ensemble`; `distill/0` -> `student`."""
    kind, *rest = step.split("/")
    if kind in SEEDED and rest and rest[-1].isdigit():
        rest.pop()
    return "/".join([ROW_NAMES.get(kind, kind), *rest])


def _row(name: str, steps: list[str], results: dict[str, dict[str, Any]], task: str) -> Row:
    mine = [results[step] for step in steps]
    kind = steps[0].split("/")[0]
    scores = {
        measure: spread([result["test"][measure] for result in mine])
        for measure in MEASURES
        if mine[0]["test"].get(measure) is not None
    }
    return Row(
        name=name,
        kind=KINDS[kind],
        task=steps[0].split("/")[1] if kind == "prompts" else task,
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        mcc=scores.get("mcc"),
        ece=scores.get("ece"),
        exact_match=scores.get("exact_match"),
        entity_f1=scores.get("entity_f1"),
        num_seeds=len(steps),
        num_test=mine[0]["test"]["num_examples"],
        num_labelled=mine[0]["num_labelled"],
        num_unlabelled=mine[0]["num_unlabelled"],
        trainable_parameters=mine[0]["trainable_parameters"],
        steps=tuple(steps),
    )


def spread(values: list[float]) -> Spread:
    """Mean and sample standard deviation."""
    std = round(statistics.stdev(values), 6) if len(values) > 1 else None
    return Spread(mean=round(statistics.fmean(values), 6), std=std)


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
            learnt = TAUGHT[name.partition("/")[2]]
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


COLOURS = {
    "baseline": "#9aa0a6",
    "zero-shot": "#c9b458",
    "sub-model": "#5b8def",
    "probe": "#d9705f",
    "priming": "#a8764b",
    "ensemble": "#2f5fc4",
    "student": "#1b8a5a",
    "prompt": "#b06fc9",
}


def draw(rows: tuple[Row, ...], recipe: str) -> Figure:
    """The leaderboard as horizontal bars of accuracy, with error bars over seeds."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))[::-1]
    axes.barh(
        list(places),
        [row.accuracy.mean for row in rows],
        xerr=[row.accuracy.std or 0 for row in rows],
        color=[COLOURS[row.kind] for row in rows],
        error_kw={"ecolor": "#333333", "capsize": 3},
    )
    for place, row in zip(places, rows, strict=True):
        axes.text(0.01, place, f"{100 * row.accuracy.mean:.1f}", va="center", color="white", fontweight="bold")
    axes.set_yticks(list(places), [row.name for row in rows])
    axes.set_xlim(0, 1)
    axes.set_xlabel("test accuracy")
    axes.set_title(recipe)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    figure.legend(
        handles=[Patch(color=COLOURS[kind], label=kind) for kind in kinds],
        loc="outside lower center",
        ncols=len(kinds) if len(kinds) <= 6 else 4,  # six fit into one line
    )
    return figure
