"""Modules that produce the vectors of a soft prompt in training: a table, a low-rank table, or an encoder.

Each module returns [N, W] float32 when called. W is the embedding size or, for deep prompts, the size of all keys and
values of a position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PromptEncoder, PromptEncoderConfig
from torch import Tensor


class PromptEmbedding(torch.nn.Module):
    """The vectors themselves (Lester et al., EMNLP 2021, https://arxiv.org/abs/2104.08691), in float32 whatever the
    backbone's precision. Those that stand for words may be told apart, so that they can be held for a while.
    """

    order: Tensor
    free: Tensor

    def __init__(self, vectors: Tensor, are_words: Sequence[bool] | None = None) -> None:
        """
        Args:
            vectors: [N, W] start values; copied.
            are_words: [N] which of them start from words and form a parameter of their own, `words`.
        """
        super().__init__()
        values = vectors.detach().clone().float()
        order = torch.tensor([number for number, is_word in enumerate(are_words or ()) if is_word], dtype=torch.long)
        self.register_buffer("order", order, persistent=False)
        free = torch.ones(len(values), dtype=torch.bool)
        free[order] = False
        self.register_buffer("free", free, persistent=False)
        if free.any():
            self.vectors = torch.nn.Parameter(values[free])
        if len(order):
            self.words = torch.nn.Parameter(values[order])

    def forward(self) -> Tensor:
        """[N, W]."""
        if not len(self.order):
            return self.vectors
        if not self.free.any():
            return self.words
        made = self.words.new_zeros(len(self.free), self.words.shape[1])
        return made.index_put((self.order,), self.words).index_put((self.free.nonzero()[:, 0],), self.vectors)


class LowRankPrompt(torch.nn.Module):
    """A start that stays, plus A·B (as in LoRA, Hu et al., ICLR 2022): r * (N + W) parameters instead of N * W."""

    base: Tensor

    def __init__(self, vectors: Tensor, rank: int) -> None:
        """
        Args:
            vectors: [N, W] start values.
            rank: r.
        """
        super().__init__()
        self.register_buffer("base", vectors.detach().clone().float(), persistent=False)
        self.a = torch.nn.Parameter(torch.randn(len(vectors), rank) / rank**0.5)
        self.b = torch.nn.Parameter(torch.zeros(rank, vectors.shape[1]))

    def forward(self) -> Tensor:
        """[N, W]; at first the start itself."""
        made: Tensor = self.base + self.a @ self.b
        return made


class PTuningEncoder(torch.nn.Module):
    """The encoder of P-tuning (Liu et al., 2021): a biLSTM of two layers with an MLP, or the MLP alone; PEFT's own."""

    def __init__(self, vectors: Tensor, kind: str, hidden: int) -> None:
        """
        Args:
            vectors: [N, D] start values of the encoder's input.
            kind: lstm or mlp.
            hidden: Width inside.
        """

        super().__init__()
        settings = PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=len(vectors),
            token_dim=vectors.shape[1],
            num_transformer_submodules=1,
            encoder_hidden_size=hidden,
            encoder_reparameterization_type=kind.upper(),
        )
        self.encoder = PromptEncoder(settings)
        with torch.no_grad():
            self.encoder.embedding.weight.copy_(vectors)
        self.register_buffer("places", torch.arange(len(vectors))[None], persistent=False)

    def forward(self) -> Tensor:
        """[N, D]."""
        made: Tensor = self.encoder(self.places)[0]
        return made


class PrefixEncoder(torch.nn.Module):
    """The encoder of prefix tuning (Li & Liang, ACL 2021): an MLP from small vectors to the keys and values."""

    def __init__(self, vectors: Tensor, hidden: int, width: int) -> None:
        """
        Args:
            vectors: [N, D] start values of the MLP's input.
            hidden: Width inside.
            width: W, of the result.
        """
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors.detach().clone().float())
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(vectors.shape[1], hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, width)
        )

    def forward(self) -> Tensor:
        """[N, W]."""
        made: Tensor = self.mlp(self.vectors)
        return made
