"""Prompts that depend on the text: instance-dependent prompts (IDPG), and mixtures of trained prompts (ATTEMPT).

A `TextReader` turns each text into one vector, without gradients. A module produces the vectors of the prompt from it.
Vectors depend on their own text only, so padding and the other texts of a batch do not change them. Letters in names of
tensors: B texts, L length, N vectors of a prompt, D embedding size, H size of what was read, S source prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoded

Reading = Literal["mean_state", "mean_embedding", "max_embedding"]
"""mean_state: mean of the last hidden states, of the encoder for a seq2seq model; mean_embedding: mean of the input
embeddings; max_embedding: their maximum in each dimension.
"""


@dataclass(frozen=True, slots=True)
class TextReader:
    """Reads texts with a frozen backbone: the text of the pattern without its soft blocks and without the prompt.

    If nothing is left, it reads a padding token.
    """

    backbone: Backbone
    kind: Reading

    @property
    def size(self) -> int:
        """H."""
        return self.backbone.hidden_size if self.kind == "mean_state" else self.backbone.embedding_size

    def __call__(self, texts: Sequence[Encoded]) -> Tensor:
        """Returns [B, H] float32 without gradients. It computes without dropout."""
        words = [_without_soft_blocks(item, self.backbone.pad_id) for item in texts]
        batch = self.backbone.batch(words, pad_to_multiple=not torch.is_grad_enabled())
        with _frozen(self.backbone):
            if self.kind == "mean_state":
                values_BLH = self.backbone.hidden_states(batch).float()
            else:
                values_BLH = self.backbone.model.get_input_embeddings()(batch.input_ids).float()
        is_token_BL1 = batch.attention_mask[:, :, None].bool()
        if self.kind == "max_embedding":
            return values_BLH.masked_fill(~is_token_BL1, -torch.inf).amax(dim=1)
        return values_BLH.masked_fill(~is_token_BL1, 0.0).sum(dim=1) / is_token_BL1.sum(dim=1)


@contextmanager
def _frozen(backbone: Backbone) -> Iterator[None]:
    """Switches gradients and dropout off inside the block. Its tensors may be inputs of trained modules, which those
    of inference mode may not.
    """
    was_training = backbone.model.training
    backbone.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        backbone.model.train(was_training)


def _without_soft_blocks(item: Encoded, pad_id: int) -> Encoded:
    """Returns the text without the ids that vectors replace, or `pad_id`. Where its mask is does not matter here."""
    soft = set(item.soft_positions)
    kept = [index for index in range(len(item.ids)) if index not in soft]
    ids, types = (tuple(values[index] for index in kept) for values in (item.ids, item.token_type_ids))
    return Encoded(ids or (pad_id,), types or (0,), max(len(ids) - 1, 0))


class InstancePrompt(torch.nn.Module):
    """The generator of IDPG (Wu et al., NAACL 2022, https://arxiv.org/abs/2204.04497): a bottleneck MLP from a text to
    its vectors.

    This is S-IDPG, whose vectors are in the input. The bias of the last layer is a prompt that all texts share: it has
    the initial values, and the weights of the layer are 0 at first. The PHM layers of the paper are left out: they
    compute the same from fewer stored weights, and a smaller bottleneck stores fewer, too.
    """

    def __init__(self, vectors: Tensor, input_size: int, bottleneck: int) -> None:
        """
        Args:
            vectors: [N, D] first values for every text.
            input_size: H.
            bottleneck: Hidden size.
        """
        super().__init__()
        self.num_virtual_tokens = len(vectors)
        self.down = torch.nn.Linear(input_size, bottleneck)
        self.up = torch.nn.Linear(bottleneck, vectors.numel())
        with torch.no_grad():
            self.up.weight.zero_()
            self.up.bias.copy_(vectors.flatten())

    def forward(self, read_BH: Tensor) -> Tensor:
        """[B, H] -> [B, N, D]."""
        flat: Tensor = self.up(F.gelu(self.down(read_BH)))
        vectors_BND: Tensor = flat.unflatten(1, (self.num_virtual_tokens, -1))
        return vectors_BND


class PromptMixture(torch.nn.Module):
    """The mixture of ATTEMPT (Asai et al., EMNLP 2022, https://arxiv.org/abs/2205.11961): P + Σ a_j P_j over frozen
    source prompts and the trained target prompt P itself.

    A small network maps the text to a query. The score of a prompt is the product of the query and the maximum of the
    prompt in each dimension, divided by the temperature. The weights a are the softmax of the scores.
    """

    sources: Tensor

    def __init__(self, vectors: Tensor, sources: Tensor, bottleneck: int, temperature: float | None = None) -> None:
        """
        Args:
            vectors: [N, D] first values of the target prompt.
            sources: [S, N, D] source prompts; copied, and not trained.
            bottleneck: Hidden size of the network.
            temperature: Divides the scores. Default: e * D, as in the paper.
        """
        super().__init__()
        size = vectors.shape[1]
        self.num_virtual_tokens = len(vectors)
        self.temperature = math.e * size if temperature is None else temperature
        self.register_buffer("sources", sources.detach().clone().float())
        self.target = torch.nn.Parameter(vectors.detach().clone().float())
        self.down = torch.nn.Linear(size, bottleneck, bias=False)
        self.up = torch.nn.Linear(bottleneck, size, bias=False)
        self.norm = torch.nn.LayerNorm(size)

    def weights(self, read_BD: Tensor) -> Tensor:
        """Returns the weights of the source prompts and, last, of the target prompt: [B, S + 1]."""
        query_BD = self.norm(self.up(F.silu(self.down(read_BD))))
        scores: Tensor = query_BD @ self._prompts.amax(dim=1).T / self.temperature
        return scores.softmax(dim=1)

    @property
    def _prompts(self) -> Tensor:
        """[S + 1, N, D]."""
        return torch.cat([self.sources, self.target[None]])

    def forward(self, read_BD: Tensor) -> Tensor:
        """[B, D] -> [B, N, D]."""
        mixture: Tensor = torch.einsum("bs,snd->bnd", self.weights(read_BD), self._prompts)
        return self.target + mixture
