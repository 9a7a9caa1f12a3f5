"""The split stage of regression: reads or samples train, dev and test set, and counts texts that they share."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from stages.common.data.downstream_sets import read_sets
from stages.common.protocols import Engine, Recorder
from stages.regression.examples import RegressionExample, read_examples, write_examples
from stages.regression.splits.config import RegressionSplitsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Sizes of the sets, and the mean value of the training set. `num_test_seen` counts the test texts that are also in
    the train or dev set. Files: `<set>.jsonl`.
    """

    num_train: int
    num_dev: int
    num_test: int
    num_test_seen: int
    mean_value: float


def run(config: RegressionSplitsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Samples the sets and writes them to `out`."""
    del inputs, engine
    sets = sample_splits(config)
    for name in ("train", "dev", "test"):
        write_examples(out / f"{name}.jsonl", sets[name])
    seen = {_key(item) for item in (*sets["train"], *sets["dev"])}
    recorder.log_table("train_examples", [{**item.fields, "value": item.value} for item in sets["train"]])
    return Result(
        num_train=len(sets["train"]),
        num_dev=len(sets["dev"]),
        num_test=len(sets["test"]),
        num_test_seen=sum(_key(item) in seen for item in sets["test"]),
        mean_value=statistics.fmean(item.value for item in sets["train"] if item.value is not None),
    )


def sample_splits(config: RegressionSplitsConfig) -> dict[str, list[RegressionExample]]:
    """Returns the sets `train`, `dev` (empty if it has no source) and `test`.

    Raises:
        DataError: a source lacks a field, a value is not a number in the range, or there are too few examples.
    """
    task = config.task
    return read_sets(
        config.data, task.name, task.fields, config.seed, lambda source, start: read_examples(source, task, start)
    )


def _key(item: RegressionExample) -> str:
    """Returns a key that is equal for examples with the same texts."""
    return "\x1f".join(" ".join(text.casefold().split()) for text in item.fields.values())
