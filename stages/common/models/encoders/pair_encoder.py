"""A text encoder that reads both texts of a pair one by one, and describes how similar they are.

An encoder for single texts knows nothing about a pair that it reads as one text: a linear head on that vector is at
chance if a label says how the two texts relate. Their two vectors can be compared, as in Sentence-BERT (Reimers &
Gurevych, "Sentence-BERT", 2019, https://arxiv.org/abs/1908.10084). Letters in names of tensors: B batch, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.examples import Example
from stages.common.models.encoders.text_encoder import TextEncoder

COSINE_SCALE = 4.0
"""Factor of the cosine, so that a regularized head can use it: no other feature says as much with few labels."""
SEPARATE = "separate"


class PairEncoder(TextEncoder):
    """tokens of each text -> model -> two vectors -> [B, 2 D + 1], one vector per pair."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The settings that `load` needs in addition to the files."""
        return {**super().metadata, "pairs": SEPARATE}

    @property
    def width(self) -> int:
        """2 D + 1."""
        return 2 * super().width + 1

    def pooled(self, examples: Sequence[Example], *, bf16: bool = False, pad_to_multiple: bool = False) -> Tensor:
        """Returns vectors, [B, 2 D + 1] float32, with gradients if the caller enables them.

        Args:
            examples: [B] examples of two texts.
            bf16: Compute in bfloat16.
            pad_to_multiple: Pad to a multiple of batching.PAD_TO_MULTIPLE_OF.
        """
        first, second = (list(column) for column in zip(*map(self.texts, examples), strict=True))
        pooled_2BD = self._pool([first + second], bf16=bf16, pad_to_multiple=pad_to_multiple)
        return compare(*pooled_2BD.chunk(2))

    def fraction_cut(self, examples: Sequence[Example]) -> float:
        """Returns the fraction of pairs of which a text has more than `max_length` tokens; 0 without examples."""
        if not examples:
            return 0.0
        first, second = (list(column) for column in zip(*map(self.texts, examples), strict=True))
        tokens = self.tokenizer(first + second, verbose=False)["input_ids"]
        is_cut = [len(ids) > self.max_length for ids in tokens]
        return sum(map(max, is_cut[: len(first)], is_cut[len(first) :])) / len(examples)

    def num_tokens(self, example: Example) -> int:
        """Returns about the number of tokens of both texts, each padded to the longer one."""
        return 2 * min(1 + max(map(len, self.texts(example))) // 4, self.max_length)

    def texts(self, example: Example) -> tuple[str, ...]:
        """Returns the two texts of an example with their prefix, without a separator."""
        first, second = super().texts(example)
        return first, second.removeprefix(self.separator)


def compare(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Returns |u - v|, u * v and the cosine of unit vectors u and v, [B, 2 D + 1].

    Each part has a length of about 1; the product is multiplied by the root of D, and the cosine by `COSINE_SCALE`.
    """
    first_BD, second_BD = F.normalize(first_BD, dim=1), F.normalize(second_BD, dim=1)
    product_BD = first_BD * second_BD
    cosine_B1 = product_BD.sum(dim=1, keepdim=True)
    root = first_BD.shape[1] ** 0.5
    return torch.cat([(first_BD - second_BD).abs(), root * product_BD, COSINE_SCALE * cosine_B1], dim=1)


def encoder_class(metadata: Mapping[str, Any]) -> type[TextEncoder]:
    """Returns the class of an encoder with these settings."""
    return PairEncoder if metadata.get("pairs") == SEPARATE else TextEncoder
