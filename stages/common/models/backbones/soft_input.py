"""What a soft prompt puts into a forward pass: vectors before the text, inside it, or keys and values per layer.

Also gathers weights that the engine has partitioned over workers (ZeRO-3): their values exist only while a module
computes. Letters in names of tensors: B batch, L length, N vectors before the text, M vectors inside it, P positions
of a deep prompt, K layers, H heads of keys and values, D embedding size, d size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


def is_partitioned(weight: Any) -> bool:
    """Whether the values of a parameter lie on several workers (ZeRO-3 of DeepSpeed)."""
    return hasattr(weight, "ds_status")


@contextmanager
def gathered(weight: Any) -> Iterator[Any]:
    """The parameter with all its values; every worker must come here. What is kept beyond has to be a copy."""
    if not is_partitioned(weight) or weight.ds_status.name == "AVAILABLE":
        yield weight
        return
    weight.all_gather()
    yield weight
    weight.partition()


@dataclass(frozen=True, slots=True)
class SoftInput:
    """Trainable tensors of a forward pass; each may have a leading B, for a prompt of its own for every example.

    before: [N, D] vectors before the text. inside: [M, D] vectors for the soft blocks of the pattern, in order of
    appearance; `nothing` (-1 in `Batch.soft`) is left out where an example has fewer. layers: [K, 2, H, P, d] keys and
    values that every layer sees before those of the text.
    """

    before: Tensor | None = None
    inside: Tensor | None = None
    layers: Tensor | None = None

    @property
    def num_before(self) -> int:
        """N."""
        return 0 if self.before is None else int(self.before.shape[-2])

    @property
    def num_places(self) -> int:
        """P."""
        return 0 if self.layers is None else int(self.layers.shape[-2])

    def repeated(self, times: int) -> SoftInput:
        """The same for a batch with each example `times` times in a row."""

        def more(item: Tensor | None, ndim: int) -> Tensor | None:
            return item.repeat_interleave(times, dim=0) if item is not None and item.ndim > ndim else item

        return SoftInput(more(self.before, 2), more(self.inside, 2), more(self.layers, 5))

    def embedded(self, words: Tensor, soft_positions: Tensor) -> Tensor:
        """[B, N + L, D] input embeddings, from those [B, L, D] of the words and the places [B, M] of soft blocks."""

        size = len(words)
        if self.inside is not None:
            rows, numbers = (soft_positions >= 0).nonzero(as_tuple=True)
            vectors_BMD = self.inside.to(words.dtype).expand(size, -1, -1)
            words = words.index_put((rows, soft_positions[rows, numbers]), vectors_BMD[rows, numbers])
        if self.before is not None:
            words = torch.cat([self.before.to(words.dtype).expand(size, -1, -1), words], dim=1)
        return words

    def keys_and_values(self, size: int, dtype: Any) -> list[tuple[Tensor, Tensor]]:
        """For every layer keys and values, [B, H, P, d] each."""
        assert self.layers is not None
        layers_BK = self.layers.to(dtype).expand(size, *self.layers.shape[-5:])
        return [(layer[:, 0], layer[:, 1]) for layer in layers_BK.unbind(dim=1)]

    def cache(self, size: int, dtype: Any) -> Any:
        """A cache of transformers that holds the keys and values; a new one each time, since a pass adds to it."""

        return DynamicCache(self.keys_and_values(size, dtype))
