"""Successive halving (Jamieson & Talwalkar, AISTATS 2016): many settings train briefly, and the best ones longer.

A bracket starts with many candidates and few training steps. Each rung keeps the best third and trains it three times
as long, until the last rung trains as long as the recipe does. Each rung trains from the start, because a learning rate
that is scheduled for a long training says little in the middle of its schedule.
"""

from __future__ import annotations

from typing import NamedTuple

ETA = 3
"""A rung trains this many times as long as the one before, with one of this many candidates."""
MIN_STEPS = 10
"""Training steps of the shortest rung. After fewer of them, prompts hardly differ from their initialization."""
MAX_RUNGS = 3
NUM_FINALISTS = 2
"""Candidates of the last rung of a bracket."""


class Rung(NamedTuple):
    """How many candidates train, and for how many steps each."""

    num_candidates: int
    num_steps: int


def bracket(num_steps: int) -> tuple[Rung, ...]:
    """Returns the rungs of one bracket, the shortest first.

    Args:
        num_steps: Training steps of the last rung.
    """
    rungs = [Rung(NUM_FINALISTS, num_steps)]
    while len(rungs) < MAX_RUNGS and (shorter := num_steps // ETA ** len(rungs)) >= MIN_STEPS:
        rungs.insert(0, Rung(rungs[0].num_candidates * ETA, shorter))
    return tuple(rungs)
