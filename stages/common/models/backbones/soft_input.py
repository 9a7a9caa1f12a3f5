"""What a soft prompt adds to a forward pass: vectors before the text, vectors inside it, or keys and values per layer.

Letters in names of tensors: B batch, L length, N vectors before the text, M vectors inside it, P positions of a deep
prompt, K layers, H heads of keys and values, D embedding size, d size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from stages.common.patterns.encoding import Encoded

PromptPosition = Literal["before", "inside", "layers"]
"""before: before the text; inside: in the soft blocks of the pattern; layers: keys and values of every layer."""


PrefixPlace = Literal["encoder", "decoder", "cross"]
"""Where a deep prompt of a seq2seq model is: in self-attention of the encoder or of the decoder, or in cross-attention.
"""


class KeysAndValues(NamedTuple):
    """Keys and values of one layer, [B, H, P, d] each."""

    keys: Tensor
    values: Tensor


def keys_and_values(layers: Tensor, size: int, dtype: torch.dtype) -> list[KeysAndValues]:
    """Returns [K, 2, H, P, d], or one of them per example, as keys and values per layer for `size` examples."""
    layers_BK = layers.to(dtype).expand(size, *layers.shape[-5:])
    return [KeysAndValues(layer[:, 0], layer[:, 1]) for layer in layers_BK.unbind(dim=1)]


def chosen_keys_and_values(
    layers: Tensor, size: int, dtype: torch.dtype, lengths: Sequence[int] | None
) -> list[KeysAndValues | None]:
    """Returns the first `lengths` positions of each layer; None for a layer with none. Default: all of them."""
    pairs = keys_and_values(layers, size, dtype)
    if lengths is None:
        return list(pairs)
    cut = zip(pairs, lengths, strict=True)
    return [KeysAndValues(pair.keys[:, :, :n], pair.values[:, :, :n]) if n else None for pair, n in cut]


@dataclass(frozen=True, slots=True)
class SoftInput:
    """Trainable tensors of a forward pass. Each may have a leading B dimension: a separate prompt per example."""

    before: Tensor | None = None
    """[N, D] vectors before the text."""
    inside: Tensor | None = None
    """[M, D] vectors for the soft blocks of the pattern, in order of appearance. An example with fewer blocks has -1 in
    `EncodedBatch.soft_positions`.
    """
    layers: Tensor | None = None
    """[K, 2, H, P, d] keys and values that every layer sees before those of the text; of a seq2seq model, the
    self-attention of its decoder.
    """
    encoder: Tensor | None = None
    """[K, 2, H, P, d] the same for the encoder of a seq2seq model."""
    cross: Tensor | None = None
    """[K, 2, H, P, d] the same for its cross-attention, before those of the states of the encoder."""
    lengths: tuple[int, ...] | None = None
    """[K] positions of each layer, at most P. Default: all have P."""

    @property
    def num_before(self) -> int:
        """N."""
        return 0 if self.before is None else int(self.before.shape[-2])

    @property
    def num_positions(self) -> int:
        """P."""
        return 0 if self.layers is None else int(self.layers.shape[-2])

    def repeated(self, times: int) -> SoftInput:
        """Returns the input for a batch in which each example occurs `times` times in a row."""

        def repeat(tensor: Tensor | None, ndim: int) -> Tensor | None:
            return tensor.repeat_interleave(times, dim=0) if tensor is not None and tensor.ndim > ndim else tensor

        layers, encoder, cross = (repeat(tensor, 5) for tensor in (self.layers, self.encoder, self.cross))
        return SoftInput(repeat(self.before, 2), repeat(self.inside, 2), layers, encoder, cross, self.lengths)

    def select(self, rows: Tensor) -> SoftInput:
        """Returns the input of some examples of the batch."""

        def pick(tensor: Tensor | None, ndim: int) -> Tensor | None:
            return tensor[rows] if tensor is not None and tensor.ndim > ndim else tensor

        layers, encoder, cross = (pick(tensor, 5) for tensor in (self.layers, self.encoder, self.cross))
        return SoftInput(pick(self.before, 2), pick(self.inside, 2), layers, encoder, cross, self.lengths)

    def embedded(self, words_BLD: Tensor, soft_positions_BM: Tensor) -> Tensor:
        """Returns [B, N + L, D] input embeddings.

        Args:
            words_BLD: Embeddings of the tokens.
            soft_positions_BM: Positions of the vectors in soft blocks; -1 for none.
        """
        size = len(words_BLD)
        if self.inside is not None:
            rows, numbers = (soft_positions_BM >= 0).nonzero(as_tuple=True)
            vectors_BMD = self.inside.to(words_BLD.dtype).expand(size, -1, -1)
            words_BLD = words_BLD.index_put((rows, soft_positions_BM[rows, numbers]), vectors_BMD[rows, numbers])
        if self.before is not None:
            words_BLD = torch.cat([self.before.to(words_BLD.dtype).expand(size, -1, -1), words_BLD], dim=1)
        return words_BLD

    def keys_and_values(self, size: int, dtype: torch.dtype) -> list[KeysAndValues]:
        """Returns keys and values per layer, [B, H, P, d] each, for a batch of `size` examples."""
        assert self.layers is not None
        return keys_and_values(self.layers, size, dtype)

    def cache(self, size: int, dtype: torch.dtype) -> Any:
        """Returns a new cache of transformers with the keys and values. Use it for one pass, which appends to it."""
        return DynamicCache(self.keys_and_values(size, dtype))


class SoftPrompt(Protocol):
    """Anything that produces the SoftInput of a forward pass when called; see stages/common/prompts/soft_prompt.py"""

    position: PromptPosition

    @property
    def reads_text(self) -> bool:
        """True if the tensors depend on the texts: then each text has its own."""

    def __call__(self, texts: Sequence[Encoded]) -> SoftInput:
        """Returns the tensors of one forward pass over B texts."""
