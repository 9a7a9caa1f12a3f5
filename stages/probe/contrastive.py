"""Contrastive tuning of a sentence encoder on few labels: texts of one label move together, others move apart.

The first half of SetFit (Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022,
https://arxiv.org/abs/2209.11055): the target for the cosine of a pair is 1 if both texts have the same label,
otherwise 0. The second half is the logistic regression of stages/common/models/linear_heads.py, which is fitted
afterward. Letters in names of tensors: B pairs, D size of an embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.examples import Example
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.common.training.loop import train
from stages.probe.config import ContrastiveConfig


@dataclass(frozen=True, slots=True)
class Pair:
    """Two labeled examples."""

    first: Example
    second: Example
    is_same: bool
    """True if they have the same label."""


def make_pairs(examples: Sequence[Example], num_pairs: int | None, seed: int) -> list[Pair]:
    """Returns pairs of different examples, half of them with the same label.

    Args:
        examples: Labeled examples.
        num_pairs: Maximum number of pairs. None: every pair; pairs of the rarer kind are repeated until both kinds are
            equally frequent.
        seed: Seed of the sample.
    """
    pairs = [Pair(one, other, one.label == other.label) for one, other in itertools.combinations(examples, 2)]
    kinds = [[pair for pair in pairs if pair.is_same is is_same] for is_same in (True, False)]
    if not all(kinds):
        return pairs[:num_pairs]
    rng = python_rng(seed, "pairs")
    size = max(len(kind) for kind in kinds)
    size = size if num_pairs is None else min(size, num_pairs // 2)
    sampled = []
    for kind in kinds:
        rng.shuffle(kind)
        sampled += [kind[number % len(kind)] for number in range(size)]
    return sampled


def tune_encoder(
    encoder: TextEncoder,
    examples: Sequence[Example],
    config: ContrastiveConfig,
    *,
    bf16: bool,
    recorder: Recorder,
    engine: Engine,
) -> int:
    """Tunes all weights of `encoder` in place; returns their number."""
    encoder.model.requires_grad_(True)
    parameters = {name: item for name, item in encoder.model.named_parameters() if "pooler" not in name}

    def compute_loss(batch: list[Pair]) -> Tensor:
        texts = [text for pair in batch for text in (pair.first, pair.second)]
        embeddings_BD = F.normalize(encoder.pooled(texts, bf16=bf16), dim=1)  # two rows per pair
        cosine_B = (embeddings_BD[0::2] * embeddings_BD[1::2]).sum(dim=1)
        target_B = torch.tensor([float(pair.is_same) for pair in batch], device=cosine_B.device)
        return F.mse_loss(cosine_B, target_B)

    encoder.model.train()
    train(
        make_pairs(examples, config.num_pairs, config.seed), compute_loss, parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine,
    )  # fmt: skip
    encoder.model.requires_grad_(False)
    encoder.model.eval()
    return sum(item.numel() for item in parameters.values())
