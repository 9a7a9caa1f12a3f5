"""Batches and precision: groups examples of similar length, shards batches among workers, selects device and dtype.

Without gradients, lengths are padded to a multiple of `PAD_TO_MULTIPLE_OF`. A CPU library keeps code for every shape
that it has seen: with arbitrary lengths, the memory of a process that labels for hours keeps growing
(benchmarks/label_memory.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.common.models.config import Precision
from stages.common.protocols import Engine

if TYPE_CHECKING:  # so that no change of the patterns retrains a student
    from stages.common.patterns.encoding import Encoded

PAD_TO_MULTIPLE_OF = 8
"""Lengths without gradients are padded to a multiple of this. A processor's library keeps code for every shape that it
has met: with lengths as they come a process that labels for hours grows all the while (benchmarks/label_memory.py).
"""


@dataclass(slots=True)
class EncodedBatch:
    """Padded examples on one device. input_ids, attention_mask, segments: [B, L]; mask: [B], index of the mask; soft:
    [B, M], places of the vectors in soft blocks, -1 where an example has fewer.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    mask_position: Tensor
    soft_positions: Tensor

    def repeated(self, times: int) -> EncodedBatch:
        """The batch with each example `times` times in a row."""
        return EncodedBatch(
            *(
                item.repeat_interleave(times, dim=0)
                for item in (
                    self.input_ids,
                    self.attention_mask,
                    self.token_type_ids,
                    self.mask_position,
                    self.soft_positions,
                )
            )
        )


def padded(encoded: Sequence[Encoded], longest: int, pad_id: int, *, left: bool, device: Any) -> EncodedBatch:
    """Pads texts to `longest` tokens, on the left or on the right."""

    ids = torch.full((len(encoded), longest), pad_id)
    attention = torch.zeros(len(encoded), longest, dtype=torch.long)
    segments = torch.zeros(len(encoded), longest, dtype=torch.long)
    mask = torch.zeros(len(encoded), dtype=torch.long)
    soft = torch.full((len(encoded), max(len(item.soft_positions) for item in encoded)), -1)
    for row, item in enumerate(encoded):
        start = longest - len(item.ids) if left else 0
        place = slice(start, start + len(item.ids))
        ids[row, place] = torch.tensor(item.ids)
        attention[row, place] = 1
        segments[row, place] = torch.tensor(item.token_type_ids)
        mask[row] = start + item.mask_position
        soft[row, : len(item.soft_positions)] = start + torch.tensor(item.soft_positions, dtype=torch.long)
    return EncodedBatch(*(item.to(device) for item in (ids, attention, segments, mask, soft)))


def round_up_length(length: int) -> int:
    """The next multiple of `GRID`."""
    return -(-length // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows sorted by length, longest first, in batches of at most `max_tokens` padded tokens (always at least one
    row), padded to the grid.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * round_up_length(lengths[batches[-1][0]]) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def shard_batches(batches: Sequence[list[int]], engine: Engine) -> Iterator[tuple[list[int], bool]]:
    """The batches of this worker, and whether each counts.

    All workers make as many passes, or those who split a model would wait for each other forever: one that has nothing
    left computes some batch again, which does not count.
    """
    mine = batches[engine.rank :: engine.world_size]
    for number in range(math.ceil(len(batches) / engine.world_size)):
        yield (mine[number], True) if number < len(mine) else (batches[0], False)


def default_device() -> str:
    """The GPU that this process sees, else the CPU."""

    return "cuda" if torch.cuda.is_available() else "cpu"


def wants_bf16(precision: Precision) -> bool:
    """Whether to compute in bfloat16: as told, or where the processor multiplies matrices in it."""

    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def attention_implementation() -> str:
    """Implementation of attention. On processors the plain one: at the lengths of patterns its backward pass is so much
    faster than the fused one's that a training step of SmolLM2-135M takes 0.9 s instead of 1.4 s."""
    return "sdpa" if default_device() == "cuda" else "eager"


def autocast(on: bool) -> AbstractContextManager[Any]:
    """Computes in bfloat16 over float32 weights, if `on`."""

    return torch.autocast(default_device(), dtype=torch.bfloat16) if on else nullcontext()
