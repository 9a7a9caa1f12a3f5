"""The stage that takes a few of a task's labelled texts: one point of the curve of accuracy against labels.

The texts of a class are shuffled by the seed and the first of them taken, so that for one seed the smaller sets lie in
the larger ones: a curve that rises owes it to more labels, not to other ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from stages.errors import DataError
from stages.protocols import Engine, Recorder
from stages.seeds import python_rng
from stages.tasks import Example
from stages.texts.data import load_examples, write_examples

KEPT = ("dev", "test", "unlabeled", "unlabeled_gold")
"""Sets that stay as they are."""


class Config(BaseModel, frozen=True, extra="forbid"):
    """How many labelled texts of each class, and which."""

    labels: tuple[str, ...] = Field(description="Labels of the task.")
    shots: int = Field(ge=1, description="Labelled examples a class.")
    seed: int = Field(description="Seed of the choice; the same for all sizes.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Size of the labelled set. Files: those of the split stage, with a smaller `train.jsonl`."""

    num_train: int


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Takes the first texts of each class and writes them, beside the other sets, to `out`.

    Raises:
        DataError: a class has too few labelled texts.
    """
    del engine
    chosen = take(load_examples(inputs.data / "train.jsonl"), config)
    write_examples(out / "train.jsonl", chosen)
    for name in KEPT:
        if (inputs.data / f"{name}.jsonl").exists():
            shutil.copyfile(inputs.data / f"{name}.jsonl", out / f"{name}.jsonl")
    recorder.table("train_examples", [{**item.fields, "label": item.label} for item in chosen])
    return Result(num_train=len(chosen))


def take(examples: list[Example], config: Config) -> list[Example]:
    """`config.shots` examples a class, in the order of the labels.

    Raises:
        DataError: a class has too few.
    """
    chosen: list[Example] = []
    for label in config.labels:
        mine = [item for item in examples if item.label == label]
        if len(mine) < config.shots:
            raise DataError(
                f"{config.shots} labelled texts a class were asked for, and {label!r} has {len(mine)}.",
                "Lower learning_curve.shots, or label more texts.",
                key="learning_curve.shots",
            )
        python_rng(config.seed, "labels", label).shuffle(mine)
        chosen += mine[: config.shots]
    return chosen
