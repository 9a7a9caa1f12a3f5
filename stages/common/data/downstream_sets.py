"""Reads the train, dev and test set of a downstream task that is not classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from stages.common.data.config import DownstreamData, Source
from stages.common.errors import DataError
from stages.common.seeds import python_rng

Item = TypeVar("Item")


def read_sets(
    data: DownstreamData, task: str, fields: Sequence[str], seed: int, read: Callable[[Source, str], list[Item]]
) -> dict[str, list[Item]]:
    """Returns the sets by name. The dev set may be empty.

    Args:
        data: Files and sizes.
        task: Name of the task.
        fields: Fields that each source must have.
        seed: Seed of the samples.
        read: Returns the examples of a source; the second argument is the start of their uids.

    Raises:
        DataError: a source lacks a field or a label, is malformed, or has too few examples.
    """
    sets: dict[str, list[Item]] = {"dev": []}
    for name, source in data.sources.items():
        missing = [item for item in fields if item not in source.fields]
        if missing:
            raise DataError(
                f"the task {task} needs the field {missing[0]!r}, which data.{name}.fields does not have.",
                f"Add it: {missing[0]}: COLUMN.",
                key=f"data.{name}.fields",
            )
        try:
            sets[name] = _sample(read(source, f"{name}-"), name, data, seed)
        except DataError as error:
            raise error.at(key=f"data.{name}") from error
    return sets


def _sample(examples: list[Item], name: str, data: DownstreamData, seed: int) -> list[Item]:
    """Samples the configured number of examples, in file order."""
    size: int | None = {"train": data.train_size, "test": data.test_size}.get(name)
    if size is None:
        return examples
    if size > len(examples):
        raise DataError(
            f"{name}_size is {size}, but the file has {len(examples)} examples.",
            f"Lower data.{name}_size.",
            key=f"data.{name}_size",
        )
    return [examples[number] for number in sorted(python_rng(seed, name).sample(range(len(examples)), size))]
