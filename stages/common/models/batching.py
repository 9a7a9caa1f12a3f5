"""Batches and precision: groups examples of similar length, shards batches among workers, selects device and dtype.

Without gradients, lengths are padded to a multiple of `PAD_TO_MULTIPLE_OF`. A CPU library keeps code for every shape
that it has seen: with arbitrary lengths, the memory of a process that labels for hours keeps growing
(benchmarks/label_memory.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from stages.common.models.config import Precision
from stages.common.protocols import Engine

if TYPE_CHECKING:  # so that no change of the patterns retrains a student
    from stages.common.patterns.encoding import Encoded

PAD_TO_MULTIPLE_OF = 8
"""Multiple to which lengths are padded in passes without gradients."""


@dataclass(slots=True)
class EncodedBatch:
    """Padded examples on one device. B examples, L tokens of the longest one, M vectors in soft blocks."""

    input_ids: Tensor
    """[B, L]."""
    attention_mask: Tensor
    """[B, L], 1 for tokens and 0 for padding."""
    token_type_ids: Tensor
    """[B, L]."""
    mask_position: Tensor
    """[B] index of the mask; for a causal model of the last token before the label word."""
    soft_positions: Tensor
    """[B, M] indices of the vectors of soft blocks; -1 where an example has fewer."""

    def repeated(self, times: int) -> EncodedBatch:
        """Returns a batch in which each example occurs `times` times in a row."""
        tensors = (getattr(self, item.name) for item in fields(self))
        return EncodedBatch(*(tensor.repeat_interleave(times, dim=0) for tensor in tensors))

    def select(self, rows: Tensor, length: int) -> EncodedBatch:
        """Returns some examples, which are padded on the right, cut to `length` positions."""
        ids, attention, types = (
            item[rows, :length] for item in (self.input_ids, self.attention_mask, self.token_type_ids)
        )
        return EncodedBatch(ids, attention, types, self.mask_position[rows], self.soft_positions[rows])


def pad_batch(
    encoded: Sequence[Encoded], length: int, pad_id: int, *, left: bool, device: torch.device
) -> EncodedBatch:
    """Pads examples to `length` tokens, on the left or on the right."""
    ids_BL = torch.full((len(encoded), length), pad_id)
    attention_BL = torch.zeros(len(encoded), length, dtype=torch.long)
    types_BL = torch.zeros(len(encoded), length, dtype=torch.long)
    mask_B = torch.zeros(len(encoded), dtype=torch.long)
    soft_BM = torch.full((len(encoded), max(len(item.soft_positions) for item in encoded)), -1)
    for row, item in enumerate(encoded):
        start = length - len(item.ids) if left else 0
        tokens = slice(start, start + len(item.ids))
        ids_BL[row, tokens] = torch.tensor(item.ids)
        attention_BL[row, tokens] = 1
        types_BL[row, tokens] = torch.tensor(item.token_type_ids)
        mask_B[row] = start + item.mask_position
        soft_BM[row, : len(item.soft_positions)] = start + torch.tensor(item.soft_positions, dtype=torch.long)
    return EncodedBatch(*(tensor.to(device) for tensor in (ids_BL, attention_BL, types_BL, mask_B, soft_BM)))


def round_up_length(length: int) -> int:
    """Returns the next multiple of `PAD_TO_MULTIPLE_OF`."""
    return -(-length // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups rows of similar length, longest first, into batches of at most `max_tokens` padded tokens.

    A batch has at least one row. Lengths are padded to a multiple of `PAD_TO_MULTIPLE_OF`.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * round_up_length(lengths[batches[-1][0]]) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class WorkerBatch(NamedTuple):
    """Rows of a batch; `counts` is False for a batch that another worker computes too."""

    rows: list[int]
    counts: bool


def shard_batches(batches: Sequence[list[int]], engine: Engine) -> Iterator[WorkerBatch]:
    """Yields the batches of this worker.

    All workers must run the same number of passes; otherwise ZeRO-3 deadlocks. A worker that has no batch left repeats
    one whose result does not count.
    """
    local_batches = batches[engine.rank :: engine.world_size]
    for number in range(math.ceil(len(batches) / engine.world_size)):
        has_batch = number < len(local_batches)
        yield WorkerBatch(local_batches[number] if has_batch else batches[0], has_batch)


def default_device() -> str:
    """Returns the GPU that this process sees, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wants_bf16(precision: Precision) -> bool:
    """Returns True to compute in bfloat16: as configured, or with `auto` if the device multiplies matrices in it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def attention_implementation() -> str | None:
    """Returns the name of transformers' attention to use.

    On CPUs the eager one: for short texts its backward pass is faster than the fused one, so a training step of
    SmolLM2-135M takes 0.9 s instead of 1.4 s. On GPUs None: transformers takes the fused one where the architecture has
    it, which for Gemma 2 and others is not so.
    """
    return None if default_device() == "cuda" else "eager"


def autocast(on: bool) -> AbstractContextManager[object]:
    """Computes in bfloat16 with float32 weights inside the block if `on`."""
    return torch.autocast(default_device(), dtype=torch.bfloat16) if on else nullcontext()
