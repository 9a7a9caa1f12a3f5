"""What a soft prompt adds to a forward pass: vectors before the text, vectors inside it, or keys and values per layer.

Also gathers weights that the engine has partitioned over workers (ZeRO-3): their values exist only while a module
computes. Letters in names of tensors: B batch, L length, N vectors before the text, M vectors inside it, P positions
of a deep prompt, K layers, H heads of keys and values, D embedding size, d size of a head.

Deep prompts for masked models: attention with additional keys and values before the keys and values of the text.

BERT-like models read in both directions and take no cache. All models that look up their attention in the registry of
transformers (BERT, RoBERTa, ALBERT, ELECTRA, ModernBERT, ...) can use this attention instead. Layers are identified by
the order of their calls. This also works for ALBERT, where all layers are one module.

Letters in names of tensors: B batch, L length, H heads, P positions of the prompt, d size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "clozeline_prefix"


class KeysAndValues(NamedTuple):
    """Keys and values of one layer, [B, H, P, d] each."""

    keys: Tensor
    values: Tensor


@dataclass(slots=True)
class PrefixedPass:
    """The state of one forward pass: the prompt of the layers that have not run yet, and what layers computed."""

    pending: list[KeysAndValues] | None
    text: list[KeysAndValues] = field(default_factory=list)
    """Keys and values of the text itself, layer by layer."""

    def extend(self, text: KeysAndValues) -> KeysAndValues:
        """Returns the keys and values of the next layer with those of the prompt before them."""
        self.text.append(text)
        if self.pending is None:
            prefix = KeysAndValues(text.keys[:, :, :0], text.values[:, :, :0])
        else:
            prefix = self.pending.pop(0)
        return KeysAndValues(torch.cat([prefix.keys, text.keys], dim=2), torch.cat([prefix.values, text.values], dim=2))


_current_pass: ContextVar[PrefixedPass] = ContextVar("prefixed_pass")


@contextmanager
def prefixed(model: Any, prompt: Sequence[KeysAndValues] | None) -> Iterator[PrefixedPass]:
    """Adds keys and values before the text in one forward pass of `model` inside the block.

    Args:
        model: A masked model.
        prompt: Keys and values for every layer; None adds nothing and only collects those of the text.

    Yields:
        The state of the pass, which collects the keys and values of the text.
    """
    previous = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION_NAME
    state = PrefixedPass(None if prompt is None else list(prompt))
    token = _current_pass.set(state)
    try:
        yield state
        assert not state.pending, "every layer takes its keys and values"
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Returns [B, L, H, d]: attention over the prompt and the text. The signature is that of transformers."""
    num_text = key.shape[2]
    key, value = _current_pass.get().extend(KeysAndValues(key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + F.pad(attention_mask, (key.shape[2] - num_text, 0))  # a prompt is never masked
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


PromptPosition = Literal["before", "inside", "layers"]
"""before: before the text; inside: in the soft blocks of the pattern; layers: keys and values of every layer."""


def is_partitioned(weight: Any) -> bool:
    """Returns True if the values of a parameter are spread over several workers (ZeRO-3 of DeepSpeed)."""
    return hasattr(weight, "ds_status")


@contextmanager
def gathered(weight: Any) -> Iterator[Any]:
    """Yields the parameter with all its values. All workers must call this. Copy what you need after the block."""
    if not is_partitioned(weight) or weight.ds_status.name == "AVAILABLE":
        yield weight
        return
    weight.all_gather()
    yield weight
    weight.partition()


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
    """[K, 2, H, P, d] keys and values that every layer sees before those of the text."""

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

        return SoftInput(repeat(self.before, 2), repeat(self.inside, 2), repeat(self.layers, 5))

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
        layers_BK = self.layers.to(dtype).expand(size, *self.layers.shape[-5:])
        return [KeysAndValues(layer[:, 0], layer[:, 1]) for layer in layers_BK.unbind(dim=1)]

    def cache(self, size: int, dtype: torch.dtype) -> Any:
        """Returns a new cache of transformers with the keys and values. Use it for one pass, which appends to it."""
        return DynamicCache(self.keys_and_values(size, dtype))


class SoftPrompt(Protocol):
    """Anything that produces the SoftInput of a forward pass when called; see stages/common/prompts/soft_prompt.py"""

    position: PromptPosition

    @property
    def num_virtual_tokens(self) -> int:
        """Vectors of the prompt."""

    def __call__(self) -> SoftInput:
        """Returns the tensors of one forward pass."""
