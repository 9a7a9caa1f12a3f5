"""A soft prompt: its vectors, and where they go in the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.common.models.backbones.soft_input import PromptPosition, SoftInput
from stages.common.prompts.deep_prompts import KVLayout


class Prompt(torch.nn.Module):
    """A prompt in training or in use. `table` produces its vectors, [N, W]."""

    def __init__(
        self, table: torch.nn.Module, position: PromptPosition = "before", layers: KVLayout | None = None
    ) -> None:
        super().__init__()
        self.table = table
        self.position: PromptPosition = position
        self.layers = layers

    def forward(self) -> SoftInput:
        """Returns what the prompt adds to a forward pass."""
        return self.soft_input(self.table())

    def soft_input(self, vectors: Tensor) -> SoftInput:
        """Returns what vectors [N, W] add to a forward pass, or [B, N, W] with separate ones per example."""
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
            vectors_NW: Tensor = self.table()
        return vectors_NW

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        return int(self.vectors.shape[0])
