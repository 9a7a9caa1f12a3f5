"""A random sample of a stream of any length, in the memory of the sample."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class Sample(NamedTuple, Generic[Item]):
    """Items in the order of the stream, and the length of the stream."""

    items: list[Item]
    num_seen: int


def reservoir_sample(stream: Iterable[Item], size: int, rng: random.Random) -> Sample[Item]:
    """Returns `size` items, each with the same probability, or all if there are fewer (Vitter, 1985, algorithm R).

    Args:
        stream: The items, which are read once.
        size: Maximum number of items.
        rng: Source of randomness.
    """
    reservoir: list[tuple[int, Item]] = []
    num_seen = 0
    for item in stream:
        if num_seen < size:
            reservoir.append((num_seen, item))
        elif (place := rng.randrange(num_seen + 1)) < size:
            reservoir[place] = (num_seen, item)
        num_seen += 1
    reservoir.sort(key=lambda numbered: numbered[0])
    return Sample([item for _, item in reservoir], num_seen)
