"""Runs a model's own way from its last hidden states to the logits, at chosen positions and for chosen words.

Architectures scale, cap, project or bias their logits. Nothing of this is copied here: the forward pass of the model
runs with its body, or with the matrix of its LM head, replaced. Letters in names of tensors: M positions, D hidden
size, V vocabulary, W words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from stages.common.models.backbones.partitioned import gathered


@dataclass
class GivenStates(BaseModelOutput):  # type: ignore[misc]  # transformers has no types
    """The output of a body that did not run: its last hidden states, and None for whatever else it may have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _Stub(torch.nn.Module):
    """Replaces a body: returns given hidden states, and has the attributes of the body."""

    def __init__(self, body: Any, states: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "_body", body)  # no submodule
        object.__setattr__(self, "_states", states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def forward(self, *_: Any, **__: Any) -> GivenStates:
        """Returns the given states, whatever the input."""
        return GivenStates(last_hidden_state=self._states)


@contextmanager
def given_states(model: Any, body: str, states_1MD: Tensor) -> Iterator[None]:
    """Makes the module `body` of `model` return these hidden states inside the block, whatever its input is."""
    parent, _, name = body.rpartition(".")
    modules = model.get_submodule(parent)._modules
    module = modules[name]
    modules[name] = _Stub(module, states_1MD)  # hooks of the body, such as DeepSpeed's, do not run
    try:
        yield
    finally:
        modules[name] = module


@contextmanager
def only_words(head: Any, word_ids: Sequence[int]) -> Iterator[None]:
    """Makes the LM head `head` compute the logits of W words, in float32, inside the block: [..., D] -> [..., W]."""
    ids = list(word_ids)
    with gathered(head.weight) as weight:
        weight_WD = weight[ids].float()
    bias_W: Tensor | None = None
    if getattr(head, "bias", None) is not None:
        with gathered(head.bias) as bias:
            bias_W = bias[ids].float()

    def forward(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), weight_WD, bias_W)

    previous = head.__dict__.get("forward")  # libraries that move weights replace it, too
    head.forward = forward
    try:
        yield
    finally:
        if previous is None:
            del head.forward
        else:
            head.forward = previous
