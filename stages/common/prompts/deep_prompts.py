"""Deep prompts: keys and values of every layer (Li & Liang, ACL 2021; Liu et al., ACL 2022), one row per position.

A row has key and value of layer 0, of layer 1, ..., each of all heads: PEFT's order. Letters in names of tensors:
P positions, K layers, H heads of keys and values, d size of a head, W = K * 2 * H * d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.common.models.backbones.base import Backbone


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of a backbone's keys and values: K layers, H heads, d the size of a head."""

    num_layers: int
    num_heads: int
    head_width: int

    @classmethod
    def of(cls, backbone: Backbone) -> KVLayout:
        """Returns the layout of a backbone, from a pass over one token; for a seq2seq model that of its decoder.

        Raises:
            InputError: the attention of the model takes no additional keys and values.
        """
        backbone.traits.check("deep", type(backbone.model).__name__)
        token_11 = torch.tensor([[backbone.pad_id]], device=backbone.device)
        with torch.no_grad():
            pairs = backbone.token_keys_and_values(token_11)
        _, num_heads, _, head_width = pairs[0].keys.shape
        return cls(len(pairs), int(num_heads), int(head_width))

    @property
    def width(self) -> int:
        """W, the number of values in a row."""
        return self.num_layers * 2 * self.num_heads * self.head_width

    def keys_and_values(self, rows: Tensor) -> Tensor:
        """[P, W] -> [K, 2, H, P, d]; both may have a leading B."""
        split: Tensor = rows.unflatten(-1, (self.num_layers, 2, self.num_heads, self.head_width))
        return split.movedim(-5, -2)

    def rows(self, keys_and_values: Tensor) -> Tensor:
        """[K, 2, H, P, d] -> [P, W]."""
        return keys_and_values.movedim(-2, -5).flatten(-4)


def activations(backbone: Backbone, layers: KVLayout, ids: Sequence[int]) -> Tensor:
    """Returns the keys and values that the backbone computes for P tokens, [P, W] float32.

    Prefix tuning starts best from those of real words (Li & Liang, ACL 2021, section 7.4).
    """
    tokens_BL = torch.tensor([list(ids)], device=backbone.device)
    with torch.inference_mode():
        pairs = backbone.token_keys_and_values(tokens_BL)
        stacked = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in pairs])
    return layers.rows(stacked).float().cpu().clone()
