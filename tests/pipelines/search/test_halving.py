"""Tests of successive halving: the rungs of a bracket."""

from __future__ import annotations

import pytest

from pipelines.search.halving import ETA, MIN_STEPS, bracket


@pytest.mark.parametrize(
    ("num_steps", "rungs"),
    [
        (200, [(18, 22), (6, 66), (2, 200)]),
        (90, [(18, 10), (6, 30), (2, 90)]),
        (89, [(6, 29), (2, 89)]),
        (30, [(6, 10), (2, 30)]),
        (29, [(2, 29)]),
        (1, [(2, 1)]),
    ],
)
def test_bracket_ends_in_full_length(num_steps: int, rungs: list[tuple[int, int]]) -> None:
    assert list(bracket(num_steps)) == rungs


@pytest.mark.parametrize("num_steps", [31, 100, 1000, 54321])
def test_rungs_of_a_bracket_take_equally_long(num_steps: int) -> None:
    rungs = bracket(num_steps)
    total = [rung.num_candidates * rung.num_steps for rung in rungs]
    assert max(total) - min(total) <= rungs[0].num_candidates * ETA
    assert rungs[0].num_steps >= MIN_STEPS
