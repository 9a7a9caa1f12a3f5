"""What a soft prompt puts into a forward pass: vectors before the text, inside it, or keys and values of every layer.

Letters in names of tensors: B batch, L length, N vectors before the text, M vectors inside it, P places of a deep
prompt, K layers, H heads of keys and values, D width, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


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

    def embedded(self, words: Tensor, soft: Tensor) -> Tensor:
        """[B, N + L, D] input embeddings, from those [B, L, D] of the words and the places [B, M] of soft blocks."""
        import torch

        size = len(words)
        if self.inside is not None:
            rows, numbers = (soft >= 0).nonzero(as_tuple=True)
            vectors_BMD = self.inside.to(words.dtype).expand(size, -1, -1)
            words = words.index_put((rows, soft[rows, numbers]), vectors_BMD[rows, numbers])
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
        from transformers import DynamicCache

        return DynamicCache(self.keys_and_values(size, dtype))
