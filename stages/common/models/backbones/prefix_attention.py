"""Deep prompts for masked models: attention with additional keys and values before those of the text.

Models of the BERT kind take no cache when they read in both directions. All models that look up their attention in the
registry of transformers (BERT, RoBERTa, ALBERT, ELECTRA, ModernBERT, ...) can use this one instead. Layers are
identified by the order of their calls, which also works for ALBERT, where all layers are one module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "clozeline_prefix"
_pending: list[tuple[Tensor, Tensor]] = []
"""Keys and values of the layers that have not been called yet, in order; one forward pass at a time."""
_seen: list[list[tuple[Tensor, Tensor]]] = []
"""Where keys and values of the text go, if someone asks for them."""


@contextmanager
def prefixed(
    model: Any, keys_and_values: list[tuple[Tensor, Tensor]], seen: list[tuple[Tensor, Tensor]] | None = None
) -> Iterator[None]:
    """In here a forward pass of `model` sees further keys and values before those of its text.

    Args:
        model: A masked model.
        keys_and_values: [B, H, P, d] each, for every layer.
        seen: Gets the keys and values of the text itself, layer by layer.
    """
    _register()
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION_NAME
    _pending[:] = keys_and_values
    _seen[:] = [] if seen is None else [seen]
    try:
        yield
        assert not _pending, "every layer takes its keys and values"
    finally:
        model.config._attn_implementation = before
        _pending.clear()


def _register() -> None:

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """[B, L, H, d] what each place takes from the prefix and from the text, as transformers asks for it."""

    keys, values = _pending.pop(0)
    for seen in _seen:
        seen.append((key, value))
    key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + F.pad(attention_mask, (keys.shape[2], 0))  # a prefix is never masked
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None
