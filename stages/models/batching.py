"""Batches of texts of similar length, so that little is computed for padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from stages.protocols import Engine

PREDICT_TOKENS = 1024
"""Padded tokens of one batch without gradients: enough to keep a processor busy, little enough for its caches."""


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows sorted by length, longest first, in batches of at most `max_tokens` padded tokens (always at least one
    row).
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def shared_out(batches: Sequence[list[int]], engine: Engine) -> Iterator[tuple[list[int], bool]]:
    """The batches of this worker, and whether each counts.

    All workers make as many passes, or those who split a model would wait for each other forever: one that has nothing
    left computes some batch again, which does not count.
    """
    mine = batches[engine.rank :: engine.world_size]
    for number in range(math.ceil(len(batches) / engine.world_size)):
        yield (mine[number], True) if number < len(mine) else (batches[0], False)
