"""The distillation stage: one small classifier learns what the ensemble says of the unlabelled pile.

The loss is that of the original PET: KL(softmax(teacher / T) || softmax(student / T)) * T^2, batch mean (Hinton et al.,
2015, https://arxiv.org/abs/1503.02531).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from stages.classifier import StudentConfig
from stages.loop import LoopConfig
from stages.metrics import Measured
from stages.protocols import Engine, Recorder
from stages.tasks import Example

if TYPE_CHECKING:
    from torch import Tensor


class Config(BaseModel, frozen=True, extra="forbid"):
    """The student and how it learns."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    fields: tuple[str, ...] = Field(description="One field to read, or two that are read as a pair.")
    student: StudentConfig = Field(description="The encoder.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    temperature: float = Field(2.0, gt=0, description="Softens the teacher's and the student's distribution.")
    gold_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each batch's loss that comes from gold labels, where an example has one.",
    )
    seed: int = Field(description="Seed of head, order and dropout.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `soft_labels`: files of the soft-label stage."""

    data: Path
    soft_labels: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """The student's score. Files: the classifier (see stages/classifier.py) in `model/`, and `test_logits.jsonl`."""

    final_loss: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text with the teacher's logits [C], and the index of its gold label, or -1."""

    example: Example
    teacher: tuple[float, ...]
    gold: int = -1


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softened distributions, times T^2, mean over the batch.

    Args:
        student: [B, C] logits.
        teacher: [B, C] logits.
        temperature: T; the factor T^2 keeps gradients alike at every temperature.
    """
    import torch.nn.functional as F  # noqa: N812

    target = F.log_softmax(teacher / temperature, dim=1)
    guess = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(guess, target, log_target=True, reduction="batchmean") * temperature**2


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on soft labels, tests it, and writes it to `out`."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from stages.classifier import TextClassifier, finish
    from stages.data import load_examples
    from stages.logits import read_logits
    from stages.loop import train

    labels = config.labels
    pile = load_examples(inputs.data / "unlabeled.jsonl")
    teacher = read_logits(inputs.soft_labels / "soft_labels.jsonl", labels)
    lessons = [Lesson(item, tuple(row)) for item, row in zip(pile, teacher, strict=True)]
    gold = load_examples(inputs.data / "train.jsonl") if config.gold_share else []
    lessons += [Lesson(item, (0.0,) * len(labels), labels.index(item.label or "")) for item in gold]
    student = TextClassifier.fresh(config.student, labels, config.fields, config.seed)

    def loss_of(batch: list[Lesson]) -> Tensor:
        logits = student.logits([item.example for item in batch])
        targets = torch.tensor([item.gold for item in batch], device=logits.device)
        soft, hard = targets < 0, targets >= 0
        total = logits.sum() * 0
        if soft.any():
            goal = torch.tensor([item.teacher for item in batch], device=logits.device)[soft]
            total = total + (1 - config.gold_share) * distillation_loss(logits[soft], goal, config.temperature)
        if hard.any():
            total = total + config.gold_share * F.cross_entropy(logits[hard], targets[hard])
        return total

    student.train_mode(True)
    losses = train(
        lessons, loss_of, student.parameters, config.loop, seed=config.seed, recorder=recorder, engine=engine
    )
    test = finish(student, inputs.data, out, recorder)
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labelled=json.loads((inputs.soft_labels / "result.json").read_text())["num_labelled"],
        num_unlabelled=len(pile),
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
    )
