"""Deep prompts: keys and values of every layer (Li & Liang, ACL 2021; Liu et al., ACL 2022), one row per position.

A row has key and value of layer 0, of layer 1, ..., each of all heads: PEFT's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.prefix_attention import prefixed
from stages.common.models.model_files import check_deep


@dataclass(frozen=True, slots=True)
class KVLayout:
    """What a deep prompt needs to know of a backbone: K layers, H heads of keys and values, d their width."""

    num_layers: int
    num_heads: int
    head_width: int

    @classmethod
    def of(cls, backbone: Backbone) -> KVLayout:
        """Reads them off the model; of a seq2seq model they are the decoder's.

        Raises:
            InputError: the model's attention cannot be given further keys and values.
        """
        model = backbone.model
        check_deep(backbone.family, model.config.model_type)
        config: dict[str, Any] = {
            name: getattr(model.config, name, None)
            for name in ("num_decoder_layers", "num_key_value_heads", "head_dim", "d_kv")
        }
        num_heads = int(model.config.num_attention_heads)
        width = config["d_kv"] or config["head_dim"] or model.config.hidden_size // num_heads
        return cls(
            int(config["num_decoder_layers"] or model.config.num_hidden_layers),
            int(config["num_key_value_heads"] or num_heads),
            int(width),
        )

    @property
    def width(self) -> int:
        """Numbers in a row: K * 2 * H * d."""
        return self.num_layers * 2 * self.num_heads * self.head_width

    def keys_and_values(self, rows: Tensor) -> Tensor:
        """[P, K * 2 * H * d] -> [K, 2, H, P, d], and the same behind a leading B."""
        split = rows.unflatten(-1, (self.num_layers, 2, self.num_heads, self.head_width))
        return split.movedim(-5, -2)

    def rows(self, keys_and_values: Tensor) -> Tensor:
        """[K, 2, H, P, d] -> [P, K * 2 * H * d]."""
        return keys_and_values.movedim(-2, -5).flatten(-4)


def activations(backbone: Backbone, layers: KVLayout, ids: Sequence[int]) -> Tensor:
    """[P, W] float32 keys and values that the backbone itself computes for P tokens.

    Prefix tuning starts best from those of real words (Li & Liang, ACL 2021, section 7.4). A masked model reads the
    tokens as a text of their own; the decoder of a seq2seq model reads them behind an empty text.
    """

    model, device = backbone.model, backbone.device
    tokens = torch.tensor([list(ids)], device=device)
    with torch.inference_mode():
        if backbone.family == "masked":
            pairs = _masked_activations(model, layers, tokens)
        else:
            cache: Any = DynamicCache()
            if backbone.family == "causal":
                model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
            else:
                nothing = torch.tensor([[backbone.tokenizer.eos_token_id]], device=device)
                both = EncoderDecoderCache(cache, DynamicCache())
                model(input_ids=nothing, decoder_input_ids=tokens, past_key_values=both, use_cache=True)
            pairs = [(layer.keys, layer.values) for layer in cache.layers]
        stacked = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in pairs])
    return layers.rows(stacked).float().cpu().clone()


def _masked_activations(model: Any, layers: KVLayout, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [1, H, P, d] of each layer of a masked model."""

    empty = torch.zeros(1, layers.num_heads, 0, layers.head_width, device=tokens.device, dtype=model.dtype)
    seen: list[tuple[Tensor, Tensor]] = []
    with prefixed(model, [(empty, empty)] * layers.num_layers, seen):
        model.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    return seen
