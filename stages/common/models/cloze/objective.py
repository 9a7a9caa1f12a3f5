"""The objective of a training run: the label loss, and auxiliary losses that are computed in the same step.

What is random in a step is drawn for the whole batch, before it is split into micro-batches and among workers. So each
labeled example carries its part of what an auxiliary loss has drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from stages.common.losses import ComputeLoss
from stages.common.models.cloze.classifier import LabeledCloze

ChangeBatch = Callable[[list[LabeledCloze], int], list[LabeledCloze]]
"""The labeled examples of a step and its number -> the same examples with other texts, labels or weights."""


class AuxiliaryLoss(Protocol):
    """A loss that is added to the label loss."""

    @property
    def weight(self) -> float:
        """Factor of the loss."""

    def draw(self, batch: Sequence[LabeledCloze]) -> list[Any]:
        """Draws what the loss reads in a step, from torch's global generator, which the training loop seeds for each
        step: a resumed run draws the same. Returns one part per labeled example.
        """

    def loss(self, part: Sequence[Any], batch: Sequence[Any]) -> Tensor:
        """Returns what some parts contribute to the loss of the batch."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """A labeled example, and what each auxiliary loss reads with it."""

    labeled: LabeledCloze
    auxiliary: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """The label loss of a batch, mixed with auxiliary losses."""

    label_loss: ComputeLoss[LabeledCloze]
    auxiliary: Sequence[AuxiliaryLoss] = ()
    label_weight: float = 1.0
    """Factor of the label loss."""
    changes: Sequence[ChangeBatch] = ()
    """What happens to the labeled examples of a step, one after the other. Auxiliary losses read them unchanged."""

    def prepare(self, batch: list[LabeledCloze], step: int) -> list[StepItem]:
        """Draws what is random in a step."""
        drawn = [auxiliary.draw(batch) for auxiliary in self.auxiliary]
        for change in self.changes:
            batch = change(batch, step)
        return [StepItem(item, tuple(parts[row] for parts in drawn)) for row, item in enumerate(batch)]

    def __call__(self, part: list[StepItem], batch: list[StepItem] | None = None) -> Tensor:
        """Returns the share of a part. Default: the part is the batch."""
        batch = batch or part
        loss = self.label_weight * self.label_loss([item.labeled for item in part], [item.labeled for item in batch])
        for number, auxiliary in enumerate(self.auxiliary):
            parts, all_parts = ([item.auxiliary[number] for item in items] for items in (part, batch))
            loss = loss + auxiliary.weight * auxiliary.loss(parts, all_parts)
        return loss
