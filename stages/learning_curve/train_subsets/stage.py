"""Samples a few labeled examples per class: one point of the learning curve.

The examples of a class are shuffled by the seed and the first ones are used. So for one seed the larger sets include
the smaller ones: a rising curve is due to more labels, not to different ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import DataError
from stages.common.examples import Example, load_examples, table_rows, write_examples
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.learning_curve.train_subsets.config import TrainSubsetConfig

UNCHANGED_SETS = ("dev", "test", "unlabeled", "unlabeled_gold")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Size of the labeled set. Files: those of the split stage, with a smaller `train.jsonl`."""

    num_train: int


def run(config: TrainSubsetConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Samples labeled examples of each class and writes them to `out`, together with the other sets.

    Raises:
        DataError: a class has too few labeled examples.
    """
    del engine
    subset = sample_per_class(load_examples(inputs.data / "train.jsonl"), config)
    write_examples(out / "train.jsonl", subset)
    for name in UNCHANGED_SETS:
        if (inputs.data / f"{name}.jsonl").exists():
            shutil.copyfile(inputs.data / f"{name}.jsonl", out / f"{name}.jsonl")
    recorder.log_table("train_examples", table_rows(subset))
    return Result(num_train=len(subset))


def sample_per_class(examples: Sequence[Example], config: TrainSubsetConfig) -> list[Example]:
    """Samples `config.shots` examples per class, in the order of the labels.

    Raises:
        DataError: a class has too few.
    """
    subset: list[Example] = []
    for label in config.labels:
        of_label = [item for item in examples if item.label == label]
        if len(of_label) < config.shots:
            raise DataError(
                f"{config.shots} labeled examples per class are required, but {label!r} has {len(of_label)}.",
                "Lower learning_curve.shots, or label more examples.",
                key="learning_curve.shots",
            )
        python_rng(config.seed, "labels", label).shuffle(of_label)
        subset += of_label[: config.shots]
    return subset
