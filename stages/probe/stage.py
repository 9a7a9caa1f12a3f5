"""The probe stage: trains an ensemble member that is logistic regression on sentence embeddings.

A probe reads texts in a different way than a cloze classifier, so it makes different errors, which an ensemble
benefits from. The encoder is frozen or, with `contrastive`, tuned on pairs of labeled examples first, in the manner of
SetFit.

Contrastive tuning of a sentence encoder on few labels: texts of one label move together, others move apart.

The first half of SetFit (Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022,
https://arxiv.org/abs/2209.11055): the target for the cosine of a pair is 1 if both texts have the same label,
otherwise 0. The second half is the logistic regression of stages/common/models/linear_heads.py, which is fitted
afterward. Letters in names of tensors: B pairs, D size of an embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.common.training.evaluation import Member, write_member_logits
from stages.common.training.loop import train
from stages.probe.config import ContrastiveConfig, ProbeConfig


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


NUM_FOLDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the probe. A head that is not fitted predicts nothing, so `train_accuracy_before_training` is the
    cross-validated accuracy on the labeled set, before contrastive tuning.

    Files: those of a member (stages/common/training/evaluation.py), and in `model/` the head, in float32, with the
    reference of a frozen encoder, or with the tuned encoder itself.
    """


def run(config: ProbeConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fits the probe, labels test set and unlabeled set, and writes all files to `out`. Each text is embedded once.

    Raises:
        InputError: there are no labeled examples.
    """
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("a probe needs labeled examples.", "Add some, or remove the probe.", key="members")
    student = StudentConfig(**config.encoder.model_dump(), tune="head", head_regularization_c=config.regularization_c)
    probe = TextClassifier.from_encoder(student, config.labels, config.fields, seed=0)
    probe.predicts_in_bf16 = probe.trains_in_bf16
    features, gold = probe.embed(train_set, recorder, "labeled examples"), probe.indices(train_set)
    accuracy = cross_validated_accuracy(features, gold, len(config.labels), config.regularization_c)
    recorder.log_metric("train/cross_validated_accuracy", accuracy)
    num_tuned = 0
    if config.contrastive:
        bf16 = probe.trains_in_bf16
        num_tuned = tune_encoder(
            probe.encoder, train_set, config.contrastive, bf16=bf16, recorder=recorder, engine=engine
        )
        features = probe.embed(train_set, recorder, "labeled examples after contrastive tuning")
    probe.fit_head(features, F.one_hot(gold, len(config.labels)), config.regularization_c)
    test = write_member_logits(probe, config.labels, inputs.data, out, recorder)
    (out / "model").mkdir()
    if config.contrastive:
        probe.save(out / "model")
    else:
        probe.save_head(out / "model", config.encoder.asset)
    return Result(
        test=test,
        train_accuracy_before_training=accuracy,
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=num_tuned + sum(item.numel() for item in probe.parameters.values()),
    )


def cross_validated_accuracy(features: Tensor, gold: Tensor, num_labels: int, regularization_c: float) -> float:
    """Returns the accuracy on examples that a head was not fitted on, with at most 10 stratified folds.

    Args:
        features: [n, D].
        gold: [n] indices of the labels.
        num_labels: C.
        regularization_c: C of the logistic regression.

    Returns:
        A number from 0 to 1. If no label has two examples, nothing can be held out, and it is that of a guess, 1 / C.
    """
    is_label = F.one_hot(gold, num_labels)
    num_folds = min(NUM_FOLDS, int(is_label.sum(dim=0).max()))
    if num_folds < 2:
        return round(1 / num_labels, 6)
    rank_in_label = is_label.cumsum(dim=0).gather(1, gold[:, None])[:, 0] - 1
    fold_of = rank_in_label % num_folds
    num_right = 0
    for fold in range(num_folds):
        held_out = fold_of == fold
        weight, bias = fit_logistic_regression(features[~held_out], is_label[~held_out], regularization_c)
        predicted = torch.argmax(F.linear(features[held_out], weight, bias), dim=1)
        num_right += int((predicted == gold[held_out]).sum())
    return round(num_right / len(gold), 6)
