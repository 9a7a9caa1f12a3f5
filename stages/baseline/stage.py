"""The baseline stage: trains an encoder on the labeled examples only.

It is the reference for distillation. With many labeled examples it is also a strong member of the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.baseline.config import BaselineConfig
from stages.common.config import ClassWeights
from stages.common.data.groups import group_numbers
from stages.common.errors import InputError
from stages.common.examples import Example, label_indices, load_examples
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

    def examples(self, items: Sequence[Example]) -> list[Example]:
        return list(items)

    def loss(self, logits_BC: Tensor, part: Sequence[Example], batch: Sequence[Example] | None = None) -> Tensor:
        """Returns the share of the weighted mean of the cross-entropy."""
        gold_B = self._indices(part).to(logits_BC.device)
        weight_C = None if self.class_weights == "none" else self._label_weights.to(logits_BC)
        return F.cross_entropy(logits_BC, gold_B, weight=weight_C) * self._weight_share(part, batch or part)

    def _weight_share(self, part: Sequence[Example], batch: Sequence[Example]) -> float:
        """Returns the weight of the examples of a part, as a fraction of that of the batch."""
        weights = [float(self._label_weights[self._indices(examples)].sum()) for examples in (part, batch)]
        return weights[0] / weights[1]

    def head_targets(self) -> HeadTargets:
        """Returns one-hot probabilities, and the weights of the examples."""
        gold_n = self._indices(self.items)
        return HeadTargets(F.one_hot(gold_n, len(self.labels)), self._label_weights[gold_n])

    @cached_property
    def _label_weights(self) -> Tensor:
        gold = self._indices(self.items).tolist()
        return torch.from_numpy(label_weights(gold, len(self.labels), self.class_weights))

    def _indices(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor(label_indices(examples, self.labels))


def run(config: BaselineConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on the labeled set, evaluates it, and writes it to `out`.

    Raises:
        InputError: there are no labeled examples.
    """
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("the baseline needs labeled examples.", "Add some, or remove baseline.", key="baseline")
    targets = GoldTargets(train_set, config.labels, config.class_weights)
    held_out = _cross_validate(config, targets, inputs.data, recorder, engine) if config.num_folds else None
    fitted = fit_student(config, targets, data=inputs.data, recorder=recorder, engine=engine)
    gold = label_indices(train_set, config.labels)
    held_out = with_label_bias(config.label_bias, fitted.classifier, held_out, gold)
    student = write_student(fitted, config, inputs.data, out, recorder)
    if config.label_unlabeled:
        write_member_logits(fitted.classifier, config.labels, inputs.data, out, NullRecorder(), held_out)
    return Result(
        **student,
        **held_out_scores(held_out, train_set, config.labels),
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
        others = GoldTargets([items[row] for row in fitted], config.labels, config.class_weights)
        student = fit_student(config, others, data=data, recorder=NullRecorder(), engine=engine, name=f"fold-{fold}")
        return student.classifier.predict([items[row] for row in held_out], NullRecorder(), "")

    gold = label_indices(items, config.labels)
    groups = group_numbers(items, config.fields)
    return held_out_logits(gold, len(config.labels), config.num_folds, fit_and_predict, groups=groups)
