"""The baseline stage: trains an encoder on the labeled examples only.

It is the reference for distillation. With many labeled examples it is also a strong member of the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.baseline.config import BaselineConfig
from stages.common.config import SINGLE_LABEL, ClassWeights, ProblemType
from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.losses import classification_loss
from stages.common.problems import Gold, Problem, problem_of
from stages.common.protocols import Engine, NullRecorder, Recorder
from stages.common.training.class_weights import label_weights
from stages.common.training.cross_validation import Indices, held_out_logits
from stages.common.training.evaluation import Member, held_out_scores, write_member_logits
from stages.common.training.label_bias import with_label_bias
from stages.common.training.students import HeadTargets, fit_student, write_student


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the baseline; no loss for tune: head. Files: the classifier in `model/`, `test_logits.jsonl` and
    `losses.json`; as a member of the ensemble also those of stages/common/training/evaluation.py.
    """

    final_loss: float | None
    num_parameters: int
    """All parameters of the classifier, trained or frozen."""
    fraction_cut: float
    """Fraction of the test examples that have more tokens than the classifier reads."""


@dataclass(frozen=True)
class GoldTargets:
    """The gold labels of examples. Letters in names of tensors: B examples, C labels."""

    items: Sequence[Example]
    labels: tuple[str, ...]
    class_weights: ClassWeights = "none"
    problem_type: ProblemType = SINGLE_LABEL

    def examples(self, items: Sequence[Example]) -> list[Example]:
        return list(items)

    def loss(self, logits_BC: Tensor, part: Sequence[Example], batch: Sequence[Example] | None = None) -> Tensor:
        """Returns the share of the weighted mean of the cross-entropy."""
        gold_B = torch.from_numpy(self.gold(part)).to(logits_BC.device)
        weight_C = None if self.class_weights == "none" else self._label_weights.to(logits_BC)
        loss = classification_loss(self.problem_type, logits_BC, gold_B, weight_C)
        return loss * self._weight_share(part, batch or part)

    def _weight_share(self, part: Sequence[Example], batch: Sequence[Example]) -> float:
        """Returns the weight of the examples of a part, as a fraction of that of the batch."""
        weights = [float(self._weights(examples).sum()) for examples in (part, batch)]
        return weights[0] / weights[1]

    def head_targets(self) -> HeadTargets:
        """Returns probabilities that are 0 or 1, and the weights of the examples."""
        targets_nC = self.problem.targets(self.gold(self.items))
        return HeadTargets(torch.from_numpy(targets_nC), self._weights(self.items))

    @property
    def problem(self) -> Problem:
        """Returns the problem of the labels."""
        return problem_of(self.labels, self.problem_type)

    def gold(self, examples: Sequence[Example]) -> Gold:
        """Returns the gold labels of examples."""
        return self.problem.gold_of(examples)

    @cached_property
    def _label_weights(self) -> Tensor:
        return torch.from_numpy(label_weights(self.gold(self.items), len(self.labels), self.class_weights))

    def _weights(self, examples: Sequence[Example]) -> Tensor:
        """Returns the weight of each example, [n]."""
        if self.class_weights == "none":
            return torch.ones(len(examples), dtype=torch.float64)
        return self._label_weights[self.gold(examples)]


def run(config: BaselineConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on the labeled set, evaluates it, and writes it to `out`.

    Raises:
        InputError: there are no labeled examples.
    """
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("the baseline needs labeled examples.", "Add some, or remove baseline.", key="baseline")
    targets = GoldTargets(train_set, config.labels, config.class_weights, config.problem_type)
    held_out = _cross_validate(config, targets, inputs.data, recorder, engine) if config.num_folds else None
    fitted = fit_student(config, targets, data=inputs.data, recorder=recorder, engine=engine)
    held_out = with_label_bias(config.label_bias, fitted.classifier, held_out, targets.gold(train_set))
    student = write_student(fitted, config, inputs.data, out, recorder)
    if config.label_unlabeled:
        write_member_logits(fitted.classifier, targets.problem, inputs.data, out, NullRecorder(), held_out)
    return Result(
        **student,
        **held_out_scores(held_out, train_set, targets.problem),
        num_labeled=len(train_set),
        num_unlabeled=0,
    )


def _cross_validate(
    config: BaselineConfig, targets: GoldTargets, data: Path, recorder: Recorder, engine: Engine
) -> NDArray[np.float64] | None:
    """Returns held-out logits [n, C]: each fold trains the encoder on the other folds."""
    assert config.num_folds is not None
    items = targets.items

    def fit_and_predict(fold: int, fitted: Indices, held_out: Indices) -> NDArray[np.float64]:
        recorder.log_progress(fold, config.num_folds or 0, phase="folds of the cross-validation")
        others = replace(targets, items=[items[row] for row in fitted])
        student = fit_student(config, others, data=data, recorder=NullRecorder(), engine=engine, name=f"fold-{fold}")
        return student.classifier.predict([items[row] for row in held_out], NullRecorder(), "")

    strata = targets.problem.strata(targets.gold(items)).tolist()
    groups = group_numbers(items, config.fields)
    return held_out_logits(strata, len(config.labels), config.num_folds, fit_and_predict, groups=groups)
