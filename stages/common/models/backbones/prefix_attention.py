"""Deep prompts without a cache: attention with additional keys and values before the keys and values of the text.

BERT-like models and encoders read in both directions and take no cache, and cross-attention reads no text that could be
before a prompt. All models that look up their attention in the registry of transformers (BERT, RoBERTa, ALBERT,
ELECTRA, ModernBERT, T5, BART, ...) can use this attention instead. Layers are identified by the order of their calls.
This also works for ALBERT, where all layers are one module. A bias of relative positions is 0 for a prompt.

Letters in names of tensors: B batch, L length, H heads, P positions of the prompt, d size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stages.common.models.backbones.soft_input import KeysAndValues

ATTENTION_NAME = "clozeline_prefix"


@dataclass(slots=True)
class PrefixedPass:
    """The state of the passes in a `with` block: the prompt of each call of an attention, and what the calls computed.

    `calls`: the keys and values before those of each call in a pass; None for a call without a prompt. Without
    `calls`, nothing is added, and `text` collects the keys and values of all calls.
    """

    calls: Sequence[KeysAndValues | None] | None
    num_calls: int = 0
    text: list[KeysAndValues] = field(default_factory=list)

    def extend(self, text: KeysAndValues) -> KeysAndValues:
        """Returns the keys and values of the next call with those of the prompt before them."""
        if self.calls is None:
            self.text.append(text)
            return text
        prefix = self.calls[self.num_calls % len(self.calls)]
        self.num_calls += 1
        if prefix is None:
            return text
        return KeysAndValues(torch.cat([prefix.keys, text.keys], dim=2), torch.cat([prefix.values, text.values], dim=2))


_current_pass: ContextVar[PrefixedPass] = ContextVar("prefixed_pass")


@contextmanager
def prefixed(model: Any, calls: Sequence[KeysAndValues | None] | None) -> Iterator[PrefixedPass]:
    """Adds keys and values before the text in forward passes of `model` inside the block.

    Args:
        model: A masked model, an encoder or a decoder.
        calls: Keys and values for each call of an attention in a pass; None adds nothing and only collects those of
            the text.

    Yields:
        The state of the passes, which collects the keys and values of the text.
    """
    previous = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION_NAME
    state = PrefixedPass(calls)
    token = _current_pass.set(state)
    try:
        yield state
        assert not calls or state.num_calls % len(calls) == 0, "every layer takes its keys and values"
    finally:
        _current_pass.reset(token)
        model.config._attn_implementation = previous


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Returns [B, L, H, d]: attention over the prompt and the text. The signature is that of transformers."""
    num_text = key.shape[2]
    key, value = _current_pass.get().extend(KeysAndValues(key, value))
    num_groups = query.shape[1] // key.shape[1]  # queries that share keys and values
    key, value = key.repeat_interleave(num_groups, dim=1), value.repeat_interleave(num_groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + F.pad(position_bias, (key.shape[2] - num_text, 0))
    if attention_mask is not None:
        scores = scores + F.pad(attention_mask, (key.shape[2] - num_text, 0))  # a prompt is never masked
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
