"""Deep prompts: keys and values of every layer (Li & Liang, ACL 2021; Liu et al., ACL 2022), one row per position.

A row has key and value of layer 0, of layer 1, ..., each of all heads: PEFT's order. Letters in names of tensors:
P positions, K layers, H heads of keys and values, d size of a head, W = K * 2 * H * d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.common.models.backbones.base import Backbone
from stages.common.models.model_files import check_deep


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of a backbone's keys and values: K layers, H heads, d the size of a head."""

    num_layers: int
    num_heads: int
    head_width: int

    @classmethod
    def of(cls, backbone: Backbone) -> KVLayout:
        """Returns the layout of a backbone; for a seq2seq model the layout of its decoder.

        Raises:
            InputError: the attention of the model takes no additional keys and values.
        """
        model = backbone.model
        check_deep(backbone.family, model.config.model_type)
        config: dict[str, Any] = {
            name: getattr(model.config, name, None)
            for name in ("num_decoder_layers", "num_key_value_heads", "head_dim", "d_kv")
        }
        num_heads = int(model.config.num_attention_heads)
        head_width = config["d_kv"] or config["head_dim"] or model.config.hidden_size // num_heads
        return cls(
            int(config["num_decoder_layers"] or model.config.num_hidden_layers),
            int(config["num_key_value_heads"] or num_heads),
            int(head_width),
        )

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
