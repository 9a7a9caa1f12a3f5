"""Takes a few labeled examples per class: one point of the learning curve.

The examples of a class are shuffled by the seed and the first ones are used. So for one seed the larger sets include
the smaller ones: a rising curve is due to more labels, not to different ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.split_files import load_examples, write_examples
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.learning_curve.train_subsets.config import TrainSubsetConfig

KEPT = ("dev", "test", "unlabeled", "unlabeled_gold")
"""Sets that stay as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Size of the labelled set. Files: those of the split stage, with a smaller `train.jsonl`."""

    num_train: int


def run(config: TrainSubsetConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Takes the first texts of each class and writes them, beside the other sets, to `out`.

    Raises:
        DataError: a class has too few labelled texts.
    """
    del engine
    chosen = sample_per_class(load_examples(inputs.data / "train.jsonl"), config)
    write_examples(out / "train.jsonl", chosen)
    for name in KEPT:
        if (inputs.data / f"{name}.jsonl").exists():
            shutil.copyfile(inputs.data / f"{name}.jsonl", out / f"{name}.jsonl")
    recorder.log_table("train_examples", [{**item.fields, "label": item.label} for item in chosen])
    return Result(num_train=len(chosen))


def sample_per_class(examples: list[Example], config: TrainSubsetConfig) -> list[Example]:
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
