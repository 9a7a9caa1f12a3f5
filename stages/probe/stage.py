"""The probe stage: trains an ensemble member that is logistic regression on sentence embeddings.

A probe reads texts in a different way than a cloze classifier, so it makes different errors, which an ensemble
benefits from. The encoder is frozen or, with `contrastive`, tuned on pairs of labeled examples first, in the manner of
SetFit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.data.split_files import load_examples
from stages.common.errors import InputError
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import Member, write_member_logits
from stages.probe.config import ProbeConfig
from stages.probe.contrastive import tune_encoder

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
