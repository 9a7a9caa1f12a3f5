"""The split stage of text generation: reads or samples train, dev and test set, and counts inputs that they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.common.errors import DataError
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
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
    sets: dict[str, list[GenerationExample]] = {"dev": []}
    for name, source in config.data.sources.items():
        missing = [item for item in config.fields if item not in source.fields]
        if missing:
            raise DataError(
                f"the pattern of {config.task} has the field {missing[0]!r}, which data.{name}.fields does not have.",
                f"Add it: {missing[0]}: COLUMN.",
                key=f"data.{name}.fields",
            )
        try:
            sets[name] = _sample(read_examples(source, f"{name}-"), name, config)
        except DataError as error:
            raise error.at(key=f"data.{name}") from error
    return sets


def _sample(examples: list[GenerationExample], name: str, config: GenerationSplitsConfig) -> list[GenerationExample]:
    """Samples the configured number of examples, in file order."""
    size: int | None = {"train": config.data.train_size, "test": config.data.test_size}.get(name)
    if size is None:
        return examples
    if size > len(examples):
        raise DataError(
            f"{name}_size is {size}, but the file has {len(examples)} examples.",
            f"Lower data.{name}_size.",
            key=f"data.{name}_size",
        )
    return [examples[number] for number in sorted(python_rng(config.seed, name).sample(range(len(examples)), size))]


def _key(item: GenerationExample) -> str:
    """Returns a key that is equal for examples with the same input."""
    return " ".join("\x1f".join(item.fields.values()).casefold().split())
