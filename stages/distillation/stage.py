"""The distillation stage: trains one small classifier on the soft labels of the ensemble.

The soft labels are already calibrated, weighted and tempered (stages/soft_labels/stage.py). With `tune: full`, all
weights of the student are trained with the loss of the original PET: KL(softmax(teacher / T) || softmax(student / T))
* T^2, batch mean (Hinton et al., 2015, https://arxiv.org/abs/1503.02531). With `tune: head`, a linear head on a frozen
encoder is fitted to softmax(teacher) itself. There `temperature` has no effect: it gives small probabilities more
weight in a limited number of steps, while a fit that converges matches them as they are. Letters in names of tensors:
B examples, C labels, n items.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.common.data.soft_label_shards import confidences, load_rows
from stages.common.data.step_outputs import aligned, read_logits, write_logits
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.metrics.classification import EvaluationResult, softmax
from stages.common.models.averaging import average_members
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import python_rng
from stages.common.training.evaluation import UNLABELED_FILE
from stages.common.training.students import HeadTargets, fit_student, write_student
from stages.distillation.config import DistillationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `soft_labels`: files of the soft-label stage; `teacher`: files of another
    student that labeled the unlabeled set, if any; `shards`: files of the stage that labels shards, if any. Then the
    student is trained on these.
    """

    data: Path
    soft_labels: Path
    teacher: Path | None = None
    shards: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores of the student; no loss for tune: head. `num_unlabeled` counts the soft-labeled examples that were kept.

    Files: the classifier in `model/` (stages/common/models/encoders/text_classifier.py), `test_logits.jsonl`,
    `losses.json` and, with label_unlabeled, `unlabeled_logits.jsonl`.
    """

    final_loss: float | None
    num_parameters: int
    """All parameters of the classifier, trained or frozen."""
    fraction_cut: float
    """Fraction of the test examples that have more tokens than the classifier reads."""


@dataclass(frozen=True, slots=True)
class DistillationExample:
    """An example with the teacher's logits [C], or with the index of its gold label. Without gold label: -1."""

    example: Example
    teacher: tuple[float, ...]
    gold: int = -1


@dataclass(frozen=True, slots=True)
class DistillationTargets:
    """Soft-labeled and gold examples, and how much each kind counts."""

    items: Sequence[DistillationExample]
    config: DistillationConfig

    def examples(self, items: Sequence[DistillationExample]) -> list[Example]:
        return [item.example for item in items]

    def loss(self, logits_BC: Tensor, batch: Sequence[DistillationExample]) -> Tensor:
        """Returns the weighted sum of the distillation loss and the cross-entropy of the gold labels."""
        gold_B = torch.tensor([item.gold for item in batch], device=logits_BC.device)
        is_soft_B, is_gold_B = gold_B < 0, gold_B >= 0
        loss = logits_BC.sum() * 0
        if is_soft_B.any():
            teacher_BC = torch.tensor([item.teacher for item in batch], device=logits_BC.device)
            soft_loss = distillation_loss(logits_BC[is_soft_B], teacher_BC[is_soft_B], self.config.temperature)
            loss = loss + (1 - self.config.gold_weight) * soft_loss
        if is_gold_B.any():
            loss = loss + self.config.gold_weight * F.cross_entropy(logits_BC[is_gold_B], gold_B[is_gold_B])
        return loss

    def head_targets(self) -> HeadTargets:
        """Returns probabilities, and weights with which the gold examples together count `gold_weight` of all."""
        gold_n = torch.tensor([item.gold for item in self.items])
        is_gold_n = gold_n >= 0
        targets_nC = torch.softmax(torch.tensor([item.teacher for item in self.items], dtype=torch.float64), dim=1)
        targets_nC[is_gold_n] = F.one_hot(gold_n[is_gold_n], len(self.config.labels)).double()
        kind_weight_n = torch.where(is_gold_n, self.config.gold_weight, 1 - self.config.gold_weight)
        kind_size_n = torch.where(is_gold_n, is_gold_n.sum(), (~is_gold_n).sum())
        return HeadTargets(targets_nC, len(self.items) * kind_weight_n / kind_size_n)


def distillation_loss(student_logits_BC: Tensor, teacher_logits_BC: Tensor, temperature: float) -> Tensor:
    """Returns KL(teacher || student) of the softened distributions, times T^2, mean over the batch.

    Args:
        student_logits_BC: Logits of the student.
        teacher_logits_BC: Logits of the teacher.
        temperature: T. The factor T^2 keeps the size of the gradients independent of T.
    """
    teacher_log_p_BC = F.log_softmax(teacher_logits_BC / temperature, dim=1)
    student_log_p_BC = F.log_softmax(student_logits_BC / temperature, dim=1)
    return F.kl_div(student_log_p_BC, teacher_log_p_BC, log_target=True, reduction="batchmean") * temperature**2


def select_confident(teacher: NDArray[np.float64], keep_fraction: float, min_confidence: float) -> list[int]:
    """Returns the rows of the examples to keep, in order.

    Args:
        teacher: [n, C] logits.
        keep_fraction: Fraction of the examples of each predicted label to keep, the most confident first, at least one
            per label. The class ratio does not change.
        min_confidence: Minimum of the highest probability. Examples below it are not kept.
    """
    probabilities = softmax(teacher)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    rows: list[int] = confident_rows(confidence, predicted, keep_fraction, min_confidence).tolist()
    return rows


def confident_rows(
    confidence: NDArray[np.floating], predicted: NDArray[np.integer], keep_fraction: float, min_confidence: float
) -> NDArray[np.int64]:
    """`select_confident` for [n] highest probabilities and [n] indices of the predicted labels."""
    kept = [np.empty(0, dtype=np.int64)]
    for label in np.unique(predicted):
        rows = np.flatnonzero(predicted == label)
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: math.ceil(round(keep_fraction * len(rows), 6))]
        kept.append(rows[confidence[rows] >= min_confidence])
    return np.sort(np.concatenate(kept))


def run(config: DistillationConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on soft labels, evaluates it, and writes it to `out`.

    Raises:
        InputError: no soft-labeled example is left, or gold_weight is set and there are no labeled examples.
        DataError: the soft labels belong to other examples.
    """
    soft = _soft_labeled_examples(config, inputs) if inputs.shards is None else shard_examples(config, inputs.shards)
    recorder.log_metric("distill/num_kept", len(soft))
    targets = DistillationTargets([*soft, *_gold_examples(config, inputs)], config)
    fitted = fit_student(config, targets, data=inputs.data, recorder=recorder, engine=engine)
    student = write_student(fitted, config, inputs.data, out, recorder)
    if config.label_unlabeled:
        unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
        logits = fitted.classifier.predict(unlabeled_set, recorder, "unlabeled examples")
        write_logits(out / UNLABELED_FILE, unlabeled_set, logits, config.labels)
    num_labeled = json.loads((inputs.soft_labels / "result.json").read_text())["num_labeled"]
    return Result(**student, num_labeled=num_labeled, num_unlabeled=len(soft))


def _soft_labeled_examples(config: DistillationConfig, inputs: Inputs) -> list[DistillationExample]:
    """Returns the examples of the unlabeled set that are kept, with their soft labels."""
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    if not unlabeled_set:
        raise InputError(
            "distillation needs unlabeled examples.", "Set data.unlabeled or data.unlabeled_size.", key="data.unlabeled"
        )
    teachers = [inputs.soft_labels / "soft_labels.jsonl"]
    teachers += [inputs.teacher / UNLABELED_FILE] if inputs.teacher else []
    uids = [item.uid for item in unlabeled_set]
    logits = np.stack([aligned(read_logits(path, config.labels), uids) for path in teachers])
    teacher = logits[0] if len(logits) == 1 else average_members(logits, np.ones(len(logits)), "probabilities", 1.0)
    kept = select_confident(teacher, config.keep_fraction, config.min_confidence)
    if not kept:
        raise _nothing_kept(config, float(softmax(teacher).max()))
    return [DistillationExample(unlabeled_set[row], tuple(teacher[row])) for row in kept]


def shard_examples(config: DistillationConfig, shards: Path) -> list[DistillationExample]:
    """Samples from the examples of all shards that are kept; only the sampled ones are in memory."""
    confidence, predicted = confidences(shards, config.labels)
    kept = confident_rows(confidence, predicted, config.keep_fraction, config.min_confidence)
    if not len(kept):
        raise _nothing_kept(config, float(confidence.max()))
    if config.max_student_examples is not None and len(kept) > config.max_student_examples:
        kept = kept[sorted(python_rng(config.seed, "shards").sample(range(len(kept)), config.max_student_examples))]
    return [DistillationExample(example, teacher) for example, teacher in load_rows(shards, kept, config.labels)]


def _gold_examples(config: DistillationConfig, inputs: Inputs) -> list[DistillationExample]:
    """Returns the labeled examples, if they have a weight."""
    if not config.gold_weight:
        return []
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError(
            f"gold_weight is {config.gold_weight}, but there are no labeled examples.",
            "Set gold_weight to 0, or add labeled examples.",
            key="distill.gold_weight",
        )
    no_teacher = (0.0,) * len(config.labels)
    return [DistillationExample(item, no_teacher, config.labels.index(item.label or "")) for item in train_set]


def _nothing_kept(config: DistillationConfig, highest: float) -> InputError:
    return InputError(
        f"no soft-labeled example is left: their highest probability is {highest:.2f}.",
        f"Lower min_confidence (now {config.min_confidence}).",
        key="distill.min_confidence",
    )
