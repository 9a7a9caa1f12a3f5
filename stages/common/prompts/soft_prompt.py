"""A soft prompt: its vectors, and where they go in the forward pass."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stages.common.models.backbones.soft_input import SoftInput
from stages.common.prompts.deep_prompts import KVLayout

PromptPosition = Literal["before", "inside", "layers"]
"""before: ahead of the text; inside: in the soft blocks of the pattern; layers: keys and values of every layer."""


class Prompt(torch.nn.Module):
    """A prompt in training or in use; `table` returns its [N, W] vectors."""

    def __init__(
        self, table: torch.nn.Module, position: PromptPosition = "before", layers: KVLayout | None = None
    ) -> None:
        super().__init__()
        self.table = table
        self.position: PromptPosition = position
        self.layers = layers

    def forward(self) -> SoftInput:
        """What the prompt puts into a forward pass."""
        return self.soft_input(self.table())

    def soft_input(self, vectors: Tensor) -> SoftInput:
        """The same from vectors [N, W], or [B, N, W] with some for each example."""
        if self.position == "before":
            return SoftInput(before=vectors)
        if self.position == "inside":
            return SoftInput(inside=vectors)
        assert self.layers is not None
        return SoftInput(layers=self.layers.keys_and_values(vectors))

    @property
    def vectors(self) -> Tensor:
        """[N, W] without gradients."""
        with torch.no_grad():
            made: Tensor = self.table()
        return made

    @property
    def num_vectors(self) -> int:
        """N."""
        return int(self.vectors.shape[0])
