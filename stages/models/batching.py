"""Batches: of texts of similar length, so that little is computed for padding, and shared out among workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.protocols import Engine

if TYPE_CHECKING:
    from torch import Tensor

    from stages.patterns.encoding import Encoded

PREDICT_TOKENS = 1024
"""Padded tokens of one batch without gradients: enough to keep a processor busy, little enough for its caches."""

GRID = 8
"""Lengths without gradients are padded to a multiple of this. A processor's library keeps code for every shape that it
has met: with lengths as they come a process that labels for hours grows all the while (benchmarks/label_memory.py).
"""


@dataclass(slots=True)
class Batch:
    """Padded examples on one device. input_ids, attention_mask, segments: [B, L]; mask: [B], index of the mask; soft:
    [B, M], places of the vectors in soft blocks, -1 where an example has fewer.
    """

    input_ids: Tensor
    attention_mask: Tensor
    segments: Tensor
    mask: Tensor
    soft: Tensor

    def repeated(self, times: int) -> Batch:
        """The batch with each example `times` times in a row."""
        return Batch(
            *(
                item.repeat_interleave(times, dim=0)
                for item in (self.input_ids, self.attention_mask, self.segments, self.mask, self.soft)
            )
        )


def padded(encoded: Sequence[Encoded], longest: int, pad_id: int, *, left: bool, device: Any) -> Batch:
    """Pads texts to `longest` tokens, on the left or on the right."""
    import torch

    ids = torch.full((len(encoded), longest), pad_id)
    attention = torch.zeros(len(encoded), longest, dtype=torch.long)
    segments = torch.zeros(len(encoded), longest, dtype=torch.long)
    mask = torch.zeros(len(encoded), dtype=torch.long)
    soft = torch.full((len(encoded), max(len(item.soft) for item in encoded)), -1)
    for row, item in enumerate(encoded):
        start = longest - len(item.ids) if left else 0
        place = slice(start, start + len(item.ids))
        ids[row, place] = torch.tensor(item.ids)
        attention[row, place] = 1
        segments[row, place] = torch.tensor(item.segments)
        mask[row] = start + item.mask
        soft[row, : len(item.soft)] = start + torch.tensor(item.soft, dtype=torch.long)
    return Batch(*(item.to(device) for item in (ids, attention, segments, mask, soft)))


def on_grid(length: int) -> int:
    """The next multiple of `GRID`."""
    return -(-length // GRID) * GRID


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows sorted by length, longest first, in batches of at most `max_tokens` padded tokens (always at least one
    row), padded to the grid.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * on_grid(lengths[batches[-1][0]]) <= max_tokens:
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
