"""A soft prompt: where its vectors go in the forward pass, and the modules that produce them in training.

A module is a table, a low-rank table, or an encoder. It returns [N, W] float32 when called. W is the embedding size D
or, for deep prompts, the size of all keys and values of a position. Modules of text_prompts.py are called with what a
reader has read of B texts, and return [B, N, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PromptEncoder, PromptEncoderConfig
from torch import Tensor

from stages.common.models.backbones.soft_input import PromptPosition, SoftInput
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.deep_prompts import DeepLayout
from stages.common.prompts.text_prompts import TextReader


class Prompt(torch.nn.Module):
    """A prompt in training or in use. `table` produces its vectors, [N, W], or [B, N, W] if they depend on the text."""

    def __init__(
        self,
        table: torch.nn.Module,
        position: PromptPosition = "before",
        layers: DeepLayout | None = None,
        *,
        noise: float = 0.0,
        reader: TextReader | None = None,
    ) -> None:
        """
        Args:
            table: Produces the vectors.
            position: Where they go.
            layers: Layout of a deep prompt.
            noise: Standard deviation of what is added to them while gradients are computed, as a multiple of theirs.
            reader: Reads the texts that the vectors depend on. Default: they are the same for all texts.
        """
        super().__init__()
        self.table = table
        self.noise = noise
        self.reader = reader
        self.position: PromptPosition = position
        self.layers = layers

    @property
    def reads_text(self) -> bool:
        """True if each text has its own vectors."""
        return self.reader is not None

    def forward(self, texts: Sequence[Encoded]) -> SoftInput:
        """Returns what the prompt adds to a forward pass over B texts."""
        if self.reader is not None:
            return self.soft_input(self.table(self.reader(texts)))
        vectors_NW: Tensor = self.table()
        if self.noise and torch.is_grad_enabled():
            scale = self.noise * vectors_NW.detach().std(correction=0)
            vectors_NW = vectors_NW + torch.randn_like(vectors_NW) * scale
        return self.soft_input(vectors_NW)

    def soft_input(self, vectors: Tensor) -> SoftInput:
        """Returns what vectors [N, W] add to a forward pass, or [B, N, W] with separate ones per example."""
        if self.position == "before":
            return SoftInput(before=vectors)
        if self.position == "inside":
            return SoftInput(inside=vectors)
        assert self.layers is not None
        return self.layers.soft_input(vectors)

    @property
    def vectors(self) -> Tensor:
        """[N, W] without gradients, of a prompt that is the same for all texts."""
        assert self.reader is None, "each text has its own vectors"
        with torch.no_grad():
            vectors_NW: Tensor = self.table()
        return vectors_NW

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        if self.reader is None:
            return len(self.vectors)
        count: Any = self.table.num_virtual_tokens
        return int(count)


class PromptEmbedding(torch.nn.Module):
    """The vectors themselves, as parameters (Lester et al., EMNLP 2021, https://arxiv.org/abs/2104.08691).

    They are float32 whatever the backbone's precision. Vectors that start from words can be a separate parameter, which
    a curriculum freezes at first.
    """

    order: Tensor
    free: Tensor

    def __init__(self, vectors: Tensor, are_words: Sequence[bool] | None = None) -> None:
        """
        Args:
            vectors: [N, W] first values; copied.
            are_words: [N] True for vectors that belong to the separate parameter `words`.
        """
        super().__init__()
        values_NW = vectors.detach().clone().float()
        order = torch.tensor([number for number, is_word in enumerate(are_words or ()) if is_word], dtype=torch.long)
        self.register_buffer("order", order, persistent=False)
        free = torch.ones(len(values_NW), dtype=torch.bool)
        free[order] = False
        self.register_buffer("free", free, persistent=False)
        if free.any():
            self.vectors = torch.nn.Parameter(values_NW[free])
        if len(order):
            self.words = torch.nn.Parameter(values_NW[order])

    def forward(self) -> Tensor:
        """[N, W]."""
        if not len(self.order):
            return self.vectors
        if not self.free.any():
            return self.words
        zeros_NW = self.words.new_zeros(len(self.free), self.words.shape[1])
        return zeros_NW.index_put((self.order,), self.words).index_put((self.free.nonzero()[:, 0],), self.vectors)


class ChosenLayers(torch.nn.Module):
    """The values of a deep prompt that its layers read, as one parameter. The others are 0."""

    is_used: Tensor

    def __init__(self, vectors: Tensor, is_used: Tensor) -> None:
        """
        Args:
            vectors: [N, W] first values.
            is_used: [N, W] which of them are read.
        """
        super().__init__()
        self.register_buffer("is_used", is_used, persistent=False)
        self.values = torch.nn.Parameter(vectors.detach().float()[is_used][:, None])

    def forward(self) -> Tensor:
        """[N, W]."""
        zeros_NW = self.values.new_zeros(self.is_used.shape)
        return zeros_NW.masked_scatter(self.is_used, self.values)


class LowRankPrompt(torch.nn.Module):
    """Fixed vectors plus A·B, as in LoRA (Hu et al., ICLR 2022): r * (N + W) parameters instead of N * W."""

    base: Tensor

    def __init__(self, vectors: Tensor, rank: int) -> None:
        """
        Args:
            vectors: [N, W] fixed values.
            rank: r.
        """
        super().__init__()
        self.register_buffer("base", vectors.detach().clone().float(), persistent=False)
        self.a = torch.nn.Parameter(torch.randn(len(vectors), rank) / rank**0.5)
        self.b = torch.nn.Parameter(torch.zeros(rank, vectors.shape[1]))

    def forward(self) -> Tensor:
        """[N, W]; before training, the fixed vectors."""
        vectors_NW: Tensor = self.base + self.a @ self.b
        return vectors_NW


class PTuningEncoder(torch.nn.Module):
    """The encoder of P-tuning (Liu et al., 2021): a two-layer biLSTM with an MLP, or only the MLP, as in PEFT.

    With `base` it is residual (Razdaibiedina et al., Findings of ACL 2023): what it has learned, which is its output
    minus its first output, is added to fixed vectors. So the prompt starts from these vectors.
    """

    offset: Tensor
    """What is added to the output."""

    def __init__(self, vectors: Tensor, kind: str, hidden: int, base: Tensor | None = None) -> None:
        """
        Args:
            vectors: [N, D] first values of the encoder's input.
            kind: lstm or mlp.
            hidden: Hidden size.
            base: [N, D] vectors to start from. Default: the output is the prompt.
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
        self.register_buffer("indices", torch.arange(len(vectors))[None], persistent=False)
        offset = torch.zeros(()) if base is None else base - self.encoder(self.indices)[0].detach()
        self.register_buffer("offset", offset, persistent=False)

    def forward(self) -> Tensor:
        """[N, D]."""
        vectors_ND: Tensor = self.offset + self.encoder(self.indices)[0]
        return vectors_ND


class PrefixEncoder(torch.nn.Module):
    """The encoder of prefix tuning (Li & Liang, ACL 2021): an MLP from small vectors to keys and values.

    It is residual with `base`, as `PTuningEncoder`.
    """

    offset: Tensor
    """What is added to the output."""

    def __init__(self, vectors: Tensor, hidden: int, width: int, base: Tensor | None = None) -> None:
        """
        Args:
            vectors: [N, D] first values of the MLP's input.
            hidden: Hidden size.
            width: W.
            base: [N, W] keys and values to start from. Default: the output is the prompt.
        """
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors.detach().clone().float())
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(vectors.shape[1], hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, width)
        )
        offset = torch.zeros(()) if base is None else base - self.mlp(self.vectors).detach()
        self.register_buffer("offset", offset, persistent=False)

    def forward(self) -> Tensor:
        """[N, W]."""
        vectors_NW: Tensor = self.offset + self.mlp(self.vectors)
        return vectors_NW


class GatedPrompt(torch.nn.Module):
    """Vectors with trained gates: a factor 2 * sigmoid(g) per row and group of columns, which starts at 1.

    Adaptive prefix tuning (Zhang et al., ACL 2023) has such gates per layer and position. There they also depend on the
    text; here they do not, so that they disappear in the saved vectors.
    """

    widths: Tensor

    def __init__(self, inner: torch.nn.Module, num_rows: int, widths: Sequence[int]) -> None:
        """
        Args:
            inner: Produces the vectors [N, W].
            num_rows: N.
            widths: Columns of each group, W together: of the layers of a deep prompt.
        """
        super().__init__()
        self.inner = inner
        self.gates = torch.nn.Parameter(torch.zeros(num_rows, len(widths)))
        self.register_buffer("widths", torch.tensor(widths), persistent=False)

    def forward(self) -> Tensor:
        """[N, W]."""
        vectors_NW: Tensor = self.inner() * (2 * self.gates.sigmoid()).repeat_interleave(self.widths, dim=1)
        return vectors_NW


class JoinedPrompts(torch.nn.Module):
    """Several modules with the same number of rows, whose values are next to each other: one per place of a prefix.

    Li & Liang have an MLP of its own for the encoder, the decoder and cross-attention.
    """

    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self) -> Tensor:
        """[N, W]."""
        return torch.cat([part() for part in self.parts], dim=1)
