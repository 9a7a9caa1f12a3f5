"""The split stage of text generation: reads or samples train, dev and test set, and counts inputs that they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.data.downstream_sets import read_sets
from stages.common.protocols import Engine, Recorder
from stages.generation.examples import GenerationExample, read_examples, write_examples
from stages.generation.splits.config import GenerationSplitsConfig

MAX_LOGGED = 50
"""Rows of the table of training examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """No upstream step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Sizes of the sets. `num_test_seen` counts the test inputs that are also in the train or dev set. Files:
    `<set>.jsonl`.
    """

    num_train: int
    num_dev: int
    num_test: int
    num_test_seen: int


def run(config: GenerationSplitsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Samples the sets and writes them to `out`."""
    del inputs, engine
    sets = sample_splits(config)
    for name in ("train", "dev", "test"):
        write_examples(out / f"{name}.jsonl", sets[name])
    seen = {_key(item) for item in (*sets["train"], *sets["dev"])}
    rows = [{**item.fields, "target": item.references[0]} for item in sets["train"][:MAX_LOGGED]]
    recorder.log_table("train_examples", rows)
    return Result(
        num_train=len(sets["train"]),
        num_dev=len(sets["dev"]),
        num_test=len(sets["test"]),
        num_test_seen=sum(_key(item) in seen for item in sets["test"]),
    )


def sample_splits(config: GenerationSplitsConfig) -> dict[str, list[GenerationExample]]:
    """Returns the sets `train`, `dev` (empty if it has no source) and `test`.

    Raises:
        DataError: a source lacks a field or a target, is malformed, or has too few examples.
    """
    return read_sets(config.data, config.task, config.fields, config.seed, read_examples)


def _key(item: GenerationExample) -> str:
    """Returns a key that is equal for examples with the same input."""
    return " ".join("\x1f".join(item.fields.values()).casefold().split())
