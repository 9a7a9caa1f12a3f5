"""The distillation stage: trains one small classifier on the soft labels of the ensemble.

The soft labels are already calibrated, weighted and tempered (stages/soft_labels/stage.py). With `tune: full`, all
weights of the student are trained with the loss of the original PET: KL(softmax(teacher / T) || softmax(student / T))
* T^2, batch mean (Hinton et al., 2015, https://arxiv.org/abs/1503.02531). With several labels per example, each label
is a binary decision with this loss. With `tune: head`, a linear head on a frozen
encoder is fitted to softmax(teacher) itself. There `temperature` has no effect: it gives small probabilities more
weight in a limited number of steps, while a fit that converges matches them as they are. Letters in names of tensors:
B examples, C labels, n items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.config import MULTI_LABEL
from stages.common.data.step_outputs import write_logits
from stages.common.examples import Example, load_examples
from stages.common.losses import classification_loss, mean_share
from stages.common.metrics.classification import EvaluationResult
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import UNLABELED_FILE
from stages.common.training.students import HeadTargets, fit_student, write_student
from stages.distillation.config import DistillationConfig
from stages.distillation.examples import (
    DistillationExample,
    Inputs,
    fit_targets,
    gold_weights,
    teacher_facts,
    training_examples,
)


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


@dataclass(frozen=True)
class DistillationTargets:
    """Soft-labeled and gold examples, and how much each kind counts."""

    items: Sequence[DistillationExample]
    config: DistillationConfig

    def examples(self, items: Sequence[DistillationExample]) -> list[Example]:
        return [item.example for item in items]

    def loss(
        self,
        logits_BC: Tensor,
        part: Sequence[DistillationExample],
        batch: Sequence[DistillationExample] | None = None,
    ) -> Tensor:
        """Returns the share of the weighted sum of the distillation loss and the cross-entropy of the gold labels. Each
        is a mean over the examples of its kind in the batch.
        """
        batch = batch or part
        is_soft_B = torch.tensor([item.is_soft_labeled for item in part], device=logits_BC.device)
        is_gold_B = ~is_soft_B
        loss = logits_BC.sum() * 0
        if is_soft_B.any():
            teacher_BC = torch.tensor([item.teacher for item in part], device=logits_BC.device)
            soft_loss = self._soft_loss(logits_BC[is_soft_B], teacher_BC[is_soft_B], self.config.temperature)
            soft, all_soft = ([item for item in items if item.is_soft_labeled] for items in (part, batch))
            loss = loss + (1 - self.config.gold_weight) * soft_loss * mean_share(soft, all_soft)
        if is_gold_B.any():
            gold_B = torch.tensor([item.gold for item in part if not item.is_soft_labeled], device=logits_BC.device)
            weight_C = None if self.config.class_weights == "none" else self._label_weights.to(logits_BC)
            gold_loss = classification_loss(self.config.problem_type, logits_BC[is_gold_B], gold_B, weight_C)
            fraction = self._gold_weight(part) / self._gold_weight(batch)
            loss = loss + self.config.gold_weight * gold_loss * fraction
        return loss

    def _gold_weight(self, items: Sequence[DistillationExample]) -> float:
        """Returns the weight of the gold examples among `items`."""
        gold = [item.gold for item in items if not item.is_soft_labeled]
        if self.config.class_weights == "none":
            return float(len(gold))
        return float(self._label_weights[torch.tensor(gold)].sum())

    @property
    def _soft_loss(self) -> Callable[[Tensor, Tensor, float], Tensor]:
        return binary_distillation_loss if self.config.problem_type == MULTI_LABEL else distillation_loss

    @cached_property
    def _label_weights(self) -> Tensor:
        return torch.from_numpy(gold_weights(self.items, self.config))

    def head_targets(self) -> HeadTargets:
        """Returns probabilities, and weights with which the gold examples together count `gold_weight` of all."""
        probabilities_nC, weights_n = fit_targets(self.items, self.config)
        return HeadTargets(torch.from_numpy(probabilities_nC), torch.from_numpy(weights_n))


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


def binary_distillation_loss(student_logits_BC: Tensor, teacher_logits_BC: Tensor, temperature: float) -> Tensor:
    """Returns KL(teacher || student) of softened binary decisions, times T^2, mean over the batch and its labels.

    Args:
        student_logits_BC: Logits of the student.
        teacher_logits_BC: Logits of the teacher.
        temperature: T. The factor T^2 keeps the size of the gradients independent of T.
    """
    student, teacher = (
        torch.stack([torch.zeros_like(logits_BC), logits_BC], dim=2).flatten(0, 1)
        for logits_BC in (student_logits_BC, teacher_logits_BC)
    )
    return distillation_loss(student, teacher, temperature)


def run(config: DistillationConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on soft labels, evaluates it, and writes it to `out`.

    Raises:
        InputError: no soft-labeled example is left, or gold_weight is set and there are no labeled examples.
        DataError: the soft labels belong to other examples.
    """
    examples = training_examples(config, inputs)
    num_soft = sum(item.is_soft_labeled for item in examples)
    recorder.log_metric("distill/num_kept", num_soft)
    targets = DistillationTargets(examples, config)
    fitted = fit_student(config, targets, data=inputs.data, recorder=recorder, engine=engine)
    if config.label_unlabeled:  # before it has a bias: its own students get one, too
        unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
        logits = fitted.classifier.predict(unlabeled_set, recorder, "unlabeled examples")
        write_logits(out / UNLABELED_FILE, unlabeled_set, logits, config.labels)
    num_labeled, label_bias = teacher_facts(inputs.soft_labels)
    fitted.classifier.add_bias(label_bias)
    student = write_student(fitted, config, inputs.data, out, recorder)
    return Result(**student, num_labeled=num_labeled, num_unlabeled=num_soft)
