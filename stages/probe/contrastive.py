"""Contrastive tuning of a sentence encoder on few labels: texts of one label move together, others move apart.

As in SetFit (Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022, https://arxiv.org/abs/2209.11055),
the target for the cosine of a pair is 1 if both texts have the same label, otherwise 0. SetFit encodes two texts per
pair; here a batch of B texts is encoded once, and all its B (B - 1) / 2 pairs count. With several labels per text the
target is the Jaccard index of both label sets, and with ordered labels it falls with their distance. Letters in names
of tensors: B texts, D size of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.data.text_keys import text_key
from stages.common.examples import Example, Label, label_set
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.problems import Problem
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
    problem: Problem,
    *,
    bf16: bool,
    recorder: Recorder,
    engine: Engine,
    name: str = "checkpoint",
) -> int:
    """Tunes all weights of `encoder` in place; returns their number. `name`: of the checkpoint.

    Texts that occur with different labels are left out: they cannot be near and far from the same texts.
    """
    examples = unambiguous(examples) or examples
    encoder.model.requires_grad_(True)
    parameters = tuned_parameters(encoder)

    def compute_loss(part: list[Example], batch: list[Example]) -> Tensor:
        assert len(part) == len(batch), "every pair of a batch counts, so configs reject micro-batches and workers"
        similarities_BB = torch.from_numpy(problem.similarities(problem.gold_of(batch)))
        sets = [set(label_set(item.label)) for item in batch]
        is_related_BB = torch.tensor([[bool(one & other) for other in sets] for one in sets])
        return pair_loss(encoder.pooled(batch, bf16=bf16), similarities_BB, is_related_BB)

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


def tuned_parameters(encoder: TextEncoder) -> dict[str, torch.nn.Parameter]:
    """Returns what contrastive tuning changes: all weights but those of a pooler, which embeddings do not use."""
    return {key: item for key, item in encoder.model.named_parameters() if "pooler" not in key}


def unambiguous(examples: Sequence[Example]) -> list[Example]:
    """Returns the examples whose text always has the same label, or the same set of labels."""
    labels_of: dict[str, set[Label | None]] = {}
    keys = [text_key(item.fields.values()) for item in examples]
    for key, item in zip(keys, examples, strict=True):
        labels_of.setdefault(key, set()).add(item.label)
    return [item for key, item in zip(keys, examples, strict=True) if len(labels_of[key]) == 1]


def balanced_batch(examples: Sequence[Example], batch_size: int, seed: int, step: int) -> list[int]:
    """Returns the indices of the examples of a batch: equally many of each label, of as many labels as fit.

    A label with too few examples contributes all that it has. An example with several labels is in a batch once, and
    examples without a label are like those of a label.

    Args:
        examples: Labeled examples.
        batch_size: Maximum number of examples; at least two of each of two labels are in a batch.
        seed: Seed of the choice.
        step: Number of the batch.
    """
    rng = python_rng(seed, "batch", step)
    rows_of: dict[str | None, list[int]] = {}
    for row, item in enumerate(examples):
        for label in label_set(item.label) or (None,):
            rows_of.setdefault(label, []).append(row)
    num_labels = min(len(rows_of), max(2, batch_size // TEXTS_PER_LABEL))
    num_texts = max(TEXTS_PER_LABEL, batch_size // num_labels)
    labels = rng.sample(list(rows_of), num_labels)
    batch = (row for label in labels for row in rng.sample(rows_of[label], min(num_texts, len(rows_of[label]))))
    return list(dict.fromkeys(batch))


def pair_loss(pooled_BD: Tensor, similarities_BB: Tensor, is_related_BB: Tensor) -> Tensor:
    """Returns the mean squared error of the cosines of all pairs. Pairs that share a label and others count half each.

    Args:
        pooled_BD: Embeddings of any length.
        similarities_BB: The target of the cosine of each pair.
        is_related_BB: Whether the texts of a pair share a label.
    """
    embeddings_BD = F.normalize(pooled_BD, dim=1)
    rows, columns = torch.triu_indices(len(embeddings_BD), len(embeddings_BD), offset=1)
    target, is_related = similarities_BB[rows, columns].to(embeddings_BD), is_related_BB[rows, columns]
    cosine = (embeddings_BD[rows] * embeddings_BD[columns]).sum(dim=1)
    error = (cosine - target).square()
    kinds = [error[mask].mean() for mask in (is_related, ~is_related) if mask.any()]
    return torch.stack(kinds).mean() if kinds else pooled_BD.sum() * 0
