"""Deep prompts: keys and values of every layer (Li & Liang, ACL 2021; Liu et al., ACL 2022), one row per position.

A row has key and value of layer 0, of layer 1, ..., each of all heads: PEFT's order. Letters in names of tensors:
P positions, K layers, H heads of keys and values, d size of a head, W = K * 2 * H * d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.seq2seq import Seq2SeqBackbone
from stages.common.models.backbones.soft_input import KeysAndValues, PrefixPlace, SoftInput


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of a backbone's keys and values: K layers, H heads, d the size of a head."""

    num_layers: int
    num_heads: int
    head_width: int

    @classmethod
    def of(cls, backbone: Backbone, place: PrefixPlace = "decoder") -> KVLayout:
        """Returns the layout of a backbone, from a pass over one token; for a seq2seq model that of one place.

        Raises:
            InputError: the attention of the model takes no additional keys and values.
        """
        backbone.traits.check("deep", type(backbone.model).__name__)
        token_11 = torch.tensor([[backbone.pad_id]], device=backbone.device)
        with torch.no_grad():
            pairs = _pairs(backbone, place, token_11)
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


@dataclass(frozen=True, slots=True)
class DeepLayout:
    """The shape of a deep prompt: the layout of each place where it is. A row has the values of all places in turn."""

    parts: Mapping[PrefixPlace, KVLayout]
    lengths: tuple[int, ...] | None = None
    """Positions of each layer. Default: all rows."""

    @classmethod
    def of(
        cls, backbone: Backbone, places: Sequence[PrefixPlace] = ("decoder",), lengths: Sequence[int] | None = None
    ) -> DeepLayout:
        """Returns the layout of a backbone.

        Args:
            backbone: The model.
            places: Where the prompt is.
            lengths: Positions of each layer. Default: the same for all.

        Raises:
            InputError: the model has no such place, takes no additional keys and values there, or has another number of
                layers.
        """
        parts = {place: KVLayout.of(backbone, place) for place in places}
        if lengths is None:
            return cls(parts)
        if backbone.family == "seq2seq" and "decoder" in places:
            raise InputError(
                "the layers of the decoder of a seq2seq model share one length.",
                "Set prefix_at: [encoder, cross], or remove layers and layer_lengths.",
                key="prefix_at",
            )
        for place, part in parts.items():
            if part.num_layers != len(lengths):
                raise InputError(
                    f"there are {len(lengths)} lengths, but the backbone has {part.num_layers} layers ({place}).",
                    "Set one length per layer.",
                    key="layer_lengths",
                )
        return cls(parts, tuple(lengths))

    @property
    def is_in_peft_format(self) -> bool:
        """Returns True if PEFT supports the prompt too: what a model has read already, of one length."""
        return list(self.parts) == ["decoder"] and self.lengths is None

    def is_used(self, num_rows: int) -> Tensor:
        """Returns which values [P, W] a forward pass reads."""
        if self.lengths is None:
            return torch.ones(num_rows, self.width, dtype=torch.bool)
        lengths_K = torch.tensor(self.lengths).repeat(len(self.parts))
        is_used_PK = torch.arange(num_rows)[:, None] < lengths_K
        return is_used_PK.repeat_interleave(torch.tensor(self.layer_widths), dim=1)

    @property
    def width(self) -> int:
        """W, the number of values in a row."""
        return sum(part.width for part in self.parts.values())

    @property
    def layer_widths(self) -> list[int]:
        """The number of values in a row of each layer of each place."""
        return [part.width // part.num_layers for part in self.parts.values() for _ in range(part.num_layers)]

    def soft_input(self, rows: Tensor) -> SoftInput:
        """Returns rows [P, W] as the tensors of a forward pass; both may have a leading B."""
        split = rows.split([part.width for part in self.parts.values()], dim=-1)
        tensors = {
            place: part.keys_and_values(values) for (place, part), values in zip(self.parts.items(), split, strict=True)
        }
        return SoftInput(
            layers=tensors.get("decoder"),
            encoder=tensors.get("encoder"),
            cross=tensors.get("cross"),
            lengths=self.lengths,
        )


def _pairs(backbone: Backbone, place: PrefixPlace, tokens_BL: Tensor) -> list[KeysAndValues]:
    """Returns the keys and values of each layer for these tokens, at one place.

    Raises:
        InputError: the model has none there.
    """
    if isinstance(backbone, Seq2SeqBackbone):
        pairs = backbone.place_keys_and_values(place, tokens_BL)
    elif place == "decoder":
        pairs = backbone.token_keys_and_values(tokens_BL)
    else:
        raise InputError(
            f"prefix_at: {place} is for seq2seq models, but the backbone is {backbone.family}.",
            "Remove prefix_at.",
            key="prefix_at",
        )
    if not pairs:
        raise InputError(
            f"{type(backbone.model).__name__} does not look up its attention in the registry of transformers, so it "
            f"takes no prefix at: {place}.",
            "Remove it from prefix_at, or use another backbone.",
            key="prefix_at",
        )
    return pairs


def activations(backbone: Backbone, layout: DeepLayout, ids: Sequence[int]) -> Tensor:
    """Returns the keys and values that the backbone computes for P tokens, [P, W] float32.

    Prefix tuning starts best from those of real words (Li & Liang, ACL 2021, section 7.4).
    """
    tokens_BL = torch.tensor([list(ids)], device=backbone.device)
    rows = []
    with torch.inference_mode():
        for place, part in layout.parts.items():
            pairs = _pairs(backbone, place, tokens_BL)
            stacked = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in pairs])
            rows.append(part.rows(stacked).float().cpu())
    return torch.cat(rows, dim=1).clone()
