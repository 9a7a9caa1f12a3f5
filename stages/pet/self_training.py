"""What a student of self-training (LiST) learns from: pseudo-labels of its teacher, and a weight for each of them.

Wang et al., "LiST: Lite Prompted Self-training Makes Parameter-Efficient Few-shot Learners", Findings of NAACL 2022. A
student has new adapters on the frozen backbone. Its teacher, the sub-model of the same pattern and seed in the
generation before, gives each unlabeled example a soft label. The loss is the one that the soft label expects, which for
cross-entropy has the gradient of the KL divergence of the paper.

The weights are those of Ren et al., "Learning to Reweight Examples for Robust Deep Learning" (ICML 2018): how much a
small weight of an example, from 0, in a step of gradient descent lowers the loss of labeled examples. At 0 the
derivative is exactly the product of both gradients, so no second derivative is needed. As in the original
implementation, the labeled examples are the training set, negative weights count as 0, and dropout is off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.common.data.step_outputs import aligned, read_logits
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.cloze.classifier import LabeledCloze
from stages.common.seeds import python_rng
from stages.pet.config import PseudoLabelConfig

SoftLabels = Mapping[str, tuple[float, ...]]
"""uid of an example -> the probabilities of its labels, [C]."""


class PseudoLabels(NamedTuple):
    """Unlabeled examples with the most likely label of the teacher, and their soft labels."""

    examples: list[Example]
    soft_labels: SoftLabels


def pseudo_labels(
    config: PseudoLabelConfig, unlabeled_set: Sequence[Example], teacher: Path, labels: Sequence[str], *, seed: int
) -> PseudoLabels:
    """Returns the examples of a student.

    Args:
        config: The student.
        unlabeled_set: The unlabeled examples.
        teacher: Files of the teacher.
        labels: [C] labels, in the order of the logits.
        seed: Seed of the sample.

    Raises:
        DataError: the teacher labeled other examples.
    """
    logits = aligned(read_logits(teacher / "unlabeled_logits.jsonl", labels), [item.uid for item in unlabeled_set])
    rows = list(range(len(unlabeled_set)))
    if config.max_examples is not None and config.max_examples < len(rows):
        rows = sorted(python_rng(seed, "student", config.generation).sample(rows, config.max_examples))
    probabilities = softmax(logits)
    examples = [replace(unlabeled_set[row], label=labels[int(probabilities[row].argmax())]) for row in rows]
    return PseudoLabels(examples, {unlabeled_set[row].uid: tuple(probabilities[row].tolist()) for row in rows})


def meta_weights(
    loss: Callable[[list[LabeledCloze]], Tensor],
    batch: Sequence[LabeledCloze],
    labeled: list[LabeledCloze],
    parameters: Sequence[nn.Parameter],
) -> list[float]:
    """Returns the weights of pseudo-labeled examples. Their mean is 1, or all are 0 if no example helps.

    Args:
        loss: Returns the mean loss of examples.
        batch: Pseudo-labeled examples.
        labeled: Labeled examples, whose loss should become lower.
        parameters: What is trained.
    """
    with torch.enable_grad():
        target = torch.autograd.grad(loss(labeled), parameters, allow_unused=True)
        products = [
            sum(
                float((own.double() * other.double()).sum())
                for own, other in zip(
                    torch.autograd.grad(loss([item]), parameters, allow_unused=True), target, strict=True
                )
                if own is not None and other is not None
            )
            for item in batch
        ]
    positive = [max(product, 0.0) for product in products]
    total = sum(positive)
    return [value * len(positive) / total if total else 0.0 for value in positive]


@dataclass(frozen=True, slots=True)
class WeightedPseudoLabels:
    """Gives the pseudo-labeled examples of a step their soft labels and weights."""

    config: PseudoLabelConfig
    soft_labels: SoftLabels
    num_uniform_steps: int
    """First steps, in which all weights are 1."""
    labeled: Sequence[LabeledCloze]
    """Items of the labeled examples."""
    change_labeled: Callable[[list[LabeledCloze], int], list[LabeledCloze]]
    """Adds demonstrations to labeled items of a step, if there are some."""
    loss: Callable[[list[LabeledCloze]], Tensor]
    model: nn.Module
    parameters: Sequence[nn.Parameter]

    def __call__(self, batch: list[LabeledCloze], step: int) -> list[LabeledCloze]:
        """Returns the items of a step. Which labeled examples decide the weights is from torch's global generator."""
        soft = [replace(item, label_probabilities=self.soft_labels[item.example.uid]) for item in batch]
        if self.config.weights == "uniform" or step < self.num_uniform_steps:
            return soft
        rows = torch.randperm(len(self.labeled))[: self.config.meta_batch_size].tolist()
        labeled = self.change_labeled([self.labeled[row] for row in rows], step)
        was_training = self.model.training
        self.model.eval()
        weights = meta_weights(self.loss, soft, labeled, self.parameters)
        self.model.train(was_training)
        return [replace(item, weight=weight) for item, weight in zip(soft, weights, strict=True)]
