"""The soft prompt of Lester et al. (EMNLP 2021, https://arxiv.org/abs/2104.08691): a table of trainable input
vectors.
"""

from __future__ import annotations

import torch


class SoftPrompt(torch.nn.Module):
    """[N, D] trainable vectors that stand before the text. Kept in float32 whatever the backbone's precision."""

    def __init__(self, vectors: torch.Tensor) -> None:
        """
        Args:
            vectors: [N, D] start values; copied.
        """
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors.detach().clone().float())

    @property
    def num_vectors(self) -> int:
        """N."""
        return self.vectors.shape[0]

    def forward(self) -> torch.Tensor:
        """The vectors, [N, D]."""
        return self.vectors
