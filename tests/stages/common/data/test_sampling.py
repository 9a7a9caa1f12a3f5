"""Tests of the sample of a stream."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from stages.common.data.sampling import reservoir_sample


@pytest.mark.parametrize(("length", "size"), [(0, 5), (3, 5), (5, 5), (100, 5), (100, 0)])
def test_sample_has_the_size_and_the_order_of_the_stream(length: int, size: int) -> None:
    sampled, num_seen = reservoir_sample(iter(range(length)), size, random.Random(0))
    assert num_seen == length and len(sampled) == min(size, length)
    assert sampled == sorted(set(sampled))
    if length <= size:
        assert sampled == list(range(length)), "all are kept"


def test_each_item_is_equally_likely() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        counts.update(reservoir_sample(iter(range(20)), 5, random.Random(seed)).items)
    assert len(counts) == 20
    assert all(abs(count - 500) < 5 * 19.4 for count in counts.values()), "five standard deviations of B(2000, 1/4)"


def test_only_the_sample_is_in_memory() -> None:
    alive: set[int] = set()

    class Row:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)

        def __del__(self) -> None:
            alive.discard(self.number)

    largest = 0

    def stream() -> object:
        nonlocal largest
        for number in range(1000):
            yield Row(number)
            largest = max(largest, len(alive))

    assert len(reservoir_sample(stream(), 10, random.Random(0)).items) == 10  # type: ignore[arg-type]
    assert largest <= 12
