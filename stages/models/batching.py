"""Batches of texts of similar length, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence

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
