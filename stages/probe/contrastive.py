"""Contrastive tuning of a sentence encoder on few labels: texts of one label move together, others move apart.

As in SetFit (Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022, https://arxiv.org/abs/2209.11055),
the target for the cosine of a pair is 1 if both texts have the same label, otherwise 0. SetFit encodes two texts per
pair; here a batch of B texts is encoded once, and all its B (B - 1) / 2 pairs count. Letters in names of tensors:
B texts, D size of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.data.text_keys import text_key
from stages.common.examples import Example
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.common.training.loop import train
from stages.probe.config import ContrastiveConfig

TEXTS_PER_LABEL = 2
"""Minimum number of texts of a label in a batch, so that each has a pair with the same label."""


def tune_encoder(
    encoder: TextEncoder,
    examples: Sequence[Example],
    config: ContrastiveConfig,
    *,
    bf16: bool,
    recorder: Recorder,
    engine: Engine,
    name: str = "checkpoint",
) -> int:
    """Tunes all weights of `encoder` in place; returns their number. `name`: of the checkpoint.

    Texts with several labels are left out: they cannot be near and far from the same texts.
    """
    examples = unambiguous(examples) or examples
    encoder.model.requires_grad_(True)
    parameters = {key: item for key, item in encoder.model.named_parameters() if "pooler" not in key}
    label_ids = {label: number for number, label in enumerate(dict.fromkeys(item.label for item in examples))}

    def compute_loss(part: list[Example], batch: list[Example]) -> Tensor:
        assert len(part) == len(batch), "every pair of a batch counts, so configs reject micro-batches and workers"
        labels_B = torch.tensor([label_ids[item.label] for item in batch])
        return pair_loss(encoder.pooled(batch, bf16=bf16), labels_B)

    def sample(step: int) -> list[int]:
        return balanced_batch(examples, config.training.batch_size, config.seed, step)

    encoder.model.train()
    train(
        examples, compute_loss, parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine, sample=sample, name=name,
    )  # fmt: skip
    encoder.model.requires_grad_(False)
    encoder.model.eval()
    return sum(item.numel() for item in parameters.values())


def unambiguous(examples: Sequence[Example]) -> list[Example]:
    """Returns the examples whose text has one label."""
    labels_of: dict[str, set[str | None]] = {}
    keys = [text_key(item.fields.values()) for item in examples]
    for key, item in zip(keys, examples, strict=True):
        labels_of.setdefault(key, set()).add(item.label)
    return [item for key, item in zip(keys, examples, strict=True) if len(labels_of[key]) == 1]


def balanced_batch(examples: Sequence[Example], batch_size: int, seed: int, step: int) -> list[int]:
    """Returns the indices of the examples of a batch: equally many of each label, of as many labels as fit.

    A label with too few examples contributes all that it has.

    Args:
        examples: Labeled examples.
        batch_size: Maximum number of examples; at least two of each of two labels are in a batch.
        seed: Seed of the choice.
        step: Number of the batch.
    """
    rng = python_rng(seed, "batch", step)
    rows_of: dict[str | None, list[int]] = {}
    for row, item in enumerate(examples):
        rows_of.setdefault(item.label, []).append(row)
    num_labels = min(len(rows_of), max(2, batch_size // TEXTS_PER_LABEL))
    num_texts = max(TEXTS_PER_LABEL, batch_size // num_labels)
    labels = rng.sample(list(rows_of), num_labels)
    return [row for label in labels for row in rng.sample(rows_of[label], min(num_texts, len(rows_of[label])))]


def pair_loss(pooled_BD: Tensor, labels_B: Tensor) -> Tensor:
    """Returns the mean squared error of the cosines of all pairs. Pairs with the same label and others count half each.

    Args:
        pooled_BD: Embeddings of any length.
        labels_B: Indices of the labels.
    """
    embeddings_BD = F.normalize(pooled_BD, dim=1)
    rows, columns = torch.triu_indices(len(labels_B), len(labels_B), offset=1)
    is_same = (labels_B[rows] == labels_B[columns]).to(embeddings_BD.device)
    cosine = (embeddings_BD[rows] * embeddings_BD[columns]).sum(dim=1)
    error = (cosine - is_same.float()).square()
    kinds = [error[mask].mean() for mask in (is_same, ~is_same) if mask.any()]
    return torch.stack(kinds).mean() if kinds else pooled_BD.sum() * 0
