"""The baseline stage: trains the student's encoder on the labeled examples only, as the reference for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.baseline.config import BaselineConfig
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.metrics.classification import EvaluationResult
from stages.common.protocols import Engine, Recorder
from stages.common.training.students import HeadTargets, train_student


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """Scores of the baseline; no loss for tune: head. Files: the classifier in `model/`, `test_logits.jsonl` and
    `losses.json`.
    """

    final_loss: float | None
    num_parameters: int
    """All parameters of the classifier, trained or frozen."""


@dataclass(frozen=True, slots=True)
class GoldTargets:
    """The gold labels of examples. Letters in names of tensors: B examples, C labels."""

    items: Sequence[Example]
    labels: tuple[str, ...]

    def examples(self, items: Sequence[Example]) -> list[Example]:
        return list(items)

    def loss(self, logits_BC: Tensor, batch: Sequence[Example]) -> Tensor:
        """Returns the cross-entropy."""
        return F.cross_entropy(logits_BC, self._indices(batch).to(logits_BC.device))

    def head_targets(self) -> HeadTargets:
        """Returns one-hot probabilities."""
        return HeadTargets(F.one_hot(self._indices(self.items), len(self.labels)))

    def _indices(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor([self.labels.index(item.label or "") for item in examples])


def run(config: BaselineConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on the labeled set, evaluates it, and writes it to `out`.

    Raises:
        InputError: there are no labeled examples.
    """
    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("the baseline needs labeled examples.", "Add some, or remove baseline.", key="baseline")
    targets = GoldTargets(train_set, config.labels)
    student = train_student(config, targets, data=inputs.data, out=out, recorder=recorder, engine=engine)
    return Result(**student, num_labeled=len(train_set), num_unlabeled=0)
