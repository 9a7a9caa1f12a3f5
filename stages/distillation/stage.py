"""The distillation stage: trains one small classifier on the soft labels of the ensemble.

The soft labels are already calibrated, weighted and tempered (stages/soft_labels/stage.py). With `tune: full`, all
weights of the student are trained with the loss of the original PET: KL(softmax(teacher / T) || softmax(student / T))
* T^2, batch mean (Hinton et al., 2015, https://arxiv.org/abs/1503.02531). With `tune: head`, a linear head on a frozen
encoder is fitted to softmax(teacher) itself. There `temperature` has no effect: it gives small probabilities more
weight in a limited number of steps, while a fit that converges matches them as they are.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.common.data.soft_label_shards import confidences, load_rows
from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import aligned, read_logits, write_losses
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.metrics.classification import EvaluationResult, softmax
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.common.training.config import TrainingConfig
from stages.common.training.evaluation import dev_validation, evaluate_with_errors
from stages.common.training.loop import train
from stages.distillation.config import DistillationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `soft_labels`: files of the soft-label stage; `shards`: files of the stage that
    labels shards, if there are some, from which the student then learns.
    """

    data: Path
    soft_labels: Path
    shards: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """The student's score; no loss for tune: head. `num_unlabeled` counts the texts that were kept.

    Files: the classifier (see stages/common/models/encoders/text_classifier.py) in `model/`, `test_logits.jsonl` and `losses.json`.
    """

    final_loss: float | None


@dataclass(frozen=True, slots=True)
class DistillationExample:
    """A text with the teacher's logits [C], and the index of its gold label, or -1."""

    example: Example
    teacher: tuple[float, ...]
    gold: int = -1


def select_confident(teacher: NDArray[np.float64], keep_share: float, min_confidence: float) -> list[int]:
    """Rows that are worth learning from, in order.

    Args:
        teacher: [n, C] logits.
        keep_share: Of the texts of each predicted label so many are kept, surest first, so that the ratio of the labels
            stays; at least one each.
        min_confidence: Top probability that each must have besides.
    """
    probabilities = softmax(teacher)
    confidence, guess = probabilities.max(axis=1), probabilities.argmax(axis=1)
    kept: list[int] = confident_rows(confidence, guess, keep_share, min_confidence).tolist()
    return kept


def confident_rows(
    confidence: NDArray[np.floating], predicted: NDArray[np.integer], keep_share: float, min_confidence: float
) -> NDArray[np.int64]:
    """`surest` where each of [n] texts has its top `confidence`, and its likeliest label `predicted`."""

    kept = [np.empty(0, dtype=np.int64)]
    for label in np.unique(predicted):
        rows = np.flatnonzero(predicted == label)
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: math.ceil(round(keep_share * len(rows), 6))]
        kept.append(rows[confidence[rows] >= min_confidence])
    return np.sort(np.concatenate(kept))


def distillation_loss(student_logits_BC: Tensor, teacher_logits_BC: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softened distributions, times T^2, mean over the batch.

    Args:
        student_logits_BC: [B, C] logits.
        teacher_logits_BC: [B, C] logits.
        temperature: T; the factor T^2 keeps gradients alike at every temperature.
    """

    target = F.log_softmax(teacher_logits_BC / temperature, dim=1)
    guess = F.log_softmax(student_logits_BC / temperature, dim=1)
    return F.kl_div(guess, target, log_target=True, reduction="batchmean") * temperature**2


def run(config: DistillationConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on soft labels, tests it, and writes it to `out`.

    Raises:
        InputError: no text is left to learn from, or gold labels are asked for and there are none.
    """

    lessons, num_kept = _load_examples(config, inputs)
    recorder.log_metric("distill/num_kept", num_kept)
    student = TextClassifier.from_encoder(config.student, config.labels, config.fields, config.seed)
    if config.training is None:
        losses = []
        _fit_head(student, lessons, config, recorder)
    else:
        losses = _train(student, lessons, config, config.training, inputs, recorder, engine)
    write_losses(out, losses)
    test = evaluate_with_errors(student, student.labels, inputs.data, out, recorder)
    (out / "model").mkdir()
    student.save(out / "model")
    return Result(
        test=test,
        final_loss=losses[-1] if losses else None,
        num_labeled=json.loads((inputs.soft_labels / "result.json").read_text())["num_labeled"],
        num_unlabeled=num_kept,
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
    )


def _load_examples(config: DistillationConfig, inputs: Inputs) -> tuple[list[DistillationExample], int]:
    """The soft-labelled texts that are kept, then the gold ones; and how many the former are."""

    labels = config.labels
    lessons = (
        _soft_labeled_examples(config, inputs) if inputs.shards is None else _sharded_examples(config, inputs.shards)
    )
    gold = load_examples(inputs.data / "train.jsonl") if config.gold_weight else []
    if config.gold_weight and not gold:
        raise InputError(
            f"gold_weight is {config.gold_weight}, but there are no labelled examples.",
            "Set gold_weight to 0, or add some.",
            key="distill.gold_weight",
        )
    taught = [DistillationExample(item, (0.0,) * len(labels), labels.index(item.label or "")) for item in gold]
    return [*lessons, *taught], len(lessons)


def _soft_labeled_examples(config: DistillationConfig, inputs: Inputs) -> list[DistillationExample]:
    """The texts of the pile that are kept."""

    pile = load_examples(inputs.data / "unlabeled.jsonl")
    if not pile:
        raise InputError("there are no unlabelled texts to learn from.", "Name some.", key="data.unlabeled")
    rows = read_logits(inputs.soft_labels / "soft_labels.jsonl", config.labels)
    teacher = aligned(rows, [item.uid for item in pile])
    kept = select_confident(teacher, config.keep_fraction, config.min_confidence)
    if not kept:
        raise _nothing_left(config, float(softmax(teacher).max()))
    return [DistillationExample(pile[row], tuple(teacher[row])) for row in kept]


def _sharded_examples(config: DistillationConfig, shards: Path) -> list[DistillationExample]:
    """Texts drawn among those of all shards that are kept; only the drawn ones are held in memory."""

    confidence, guess = confidences(shards, config.labels)
    kept = confident_rows(confidence, guess, config.keep_fraction, config.min_confidence)
    if not len(kept):
        raise _nothing_left(config, float(confidence.max()))
    if config.max_student_examples is not None and len(kept) > config.max_student_examples:
        kept = kept[sorted(python_rng(config.seed, "shards").sample(range(len(kept)), config.max_student_examples))]
    return [DistillationExample(example, teacher) for example, teacher in load_rows(shards, kept, config.labels)]


def _nothing_left(config: DistillationConfig, top: float) -> InputError:
    return InputError(
        f"no text is left to learn from: the surest soft label has the probability {top:.2f}.",
        f"Lower min_confidence (now {config.min_confidence}).",
        key="distill.min_confidence",
    )


def _train(
    student: TextClassifier,
    examples: list[DistillationExample],
    config: DistillationConfig,
    loop: TrainingConfig,
    inputs: Inputs,
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains all weights; returns the loss of every step."""

    def loss_of(batch: list[DistillationExample]) -> Tensor:
        logits = student.logits([item.example for item in batch])
        targets = torch.tensor([item.gold for item in batch], device=logits.device)
        soft, hard = targets < 0, targets >= 0
        total = logits.sum() * 0
        if soft.any():
            goal = torch.tensor([item.teacher for item in batch], device=logits.device)[soft]
            total = total + (1 - config.gold_weight) * distillation_loss(logits[soft], goal, config.temperature)
        if hard.any():
            total = total + config.gold_weight * F.cross_entropy(logits[hard], targets[hard])
        return total

    student.train_mode(True)
    validate = dev_validation(student, student.labels, inputs.data, loop, recorder)
    return train(
        examples, loss_of, student.parameters, loop,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
    )  # fmt: skip


def _fit_head(
    student: TextClassifier, examples: list[DistillationExample], config: DistillationConfig, recorder: Recorder
) -> None:
    """Fits the head to all lessons; together the gold ones weigh `gold_weight` of the whole."""

    gold = torch.tensor([item.gold for item in examples])
    is_gold = gold >= 0
    targets = torch.softmax(torch.tensor([item.teacher for item in examples], dtype=torch.float64), dim=1)
    targets[is_gold] = F.one_hot(gold[is_gold], len(config.labels)).double()
    share = torch.where(is_gold, config.gold_weight, 1 - config.gold_weight)
    of_its_kind = torch.where(is_gold, is_gold.sum(), (~is_gold).sum())
    features = student.embed([item.example for item in examples], recorder, "soft-labelled texts")
    student.fit_head(features, targets, config.student.head_regularization_c, len(examples) * share / of_its_kind)
