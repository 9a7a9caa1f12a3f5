"""The instruction-tuning stage: trains one language model on many tasks, each with all of its patterns.

Multi-task training on tasks that are written as texts makes a model better at tasks that it has not seen: Wei et al.,
"Finetuned Language Models Are Zero-Shot Learners" (FLAN), ICLR 2022, https://arxiv.org/abs/2109.01652; Sanh et al.,
"Multitask Prompted Training Enables Zero-Shot Task Generalization" (T0), ICLR 2022, https://arxiv.org/abs/2110.08207.
A batch has examples of any task and pattern; those that read single words at the mask share a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stages.common.data.step_outputs import write_losses
from stages.common.errors import InputError
from stages.common.examples import Example, load_examples
from stages.common.losses import mean_share
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.cloze.multi_task import multi_task_logits
from stages.common.prompts.loader import new_submodel
from stages.common.protocols import Engine, Recorder
from stages.common.training.loop import train
from stages.instruction_tuning.config import InstructionTuningConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage, in the order of the tasks."""

    data: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was trained. Files: the model, as a sub-model (stages/common/prompts/loader.py), and `losses.json`."""

    final_loss: float
    num_tasks: int
    num_patterns: int
    num_labeled: int
    """Labeled examples of all tasks. Each is read with every pattern of its task."""
    trainable_parameters: int


class TaskItem(NamedTuple):
    """An encoded example, and the number of its pattern."""

    number: int
    item: LabeledCloze


def run(config: InstructionTuningConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the model and writes it to `out`.

    Raises:
        InputError: a task has no labeled examples.
    """
    train_sets = [load_examples(folder / "train.jsonl") for folder in inputs.data]
    for task, examples in zip(config.tasks, train_sets, strict=True):
        if not examples:
            raise InputError(f"the task {task.name} has no labeled examples.", "Add some, or remove the task.")
    with new_submodel(config.backbone, config, config.seed, engine) as submodel:
        model = InstructionModel(config, submodel.backbone, engine)
        trained = {name: item for name, item in submodel.backbone.model.named_parameters() if item.requires_grad}
        submodel.backbone.model.train()
        losses = train(
            model.items(train_sets), model.loss, trained, config.training,
            seed=config.seed, recorder=recorder, engine=engine,
        )  # fmt: skip
        write_losses(out, losses)
        first = config.tasks[0]
        submodel.save(first, next(iter(first.patterns)), out)
    return Result(
        final_loss=losses[-1],
        num_tasks=len(config.tasks),
        num_patterns=len(model.classifiers),
        num_labeled=sum(map(len, train_sets)),
        trainable_parameters=sum(item.numel() for item in trained.values()),
    )


class InstructionModel:
    """One model under every pattern of every task, which have numbers."""

    def __init__(self, config: InstructionTuningConfig, backbone: Backbone, engine: Engine) -> None:
        self.backbone = backbone
        self.classifiers: list[ClozeClassifier] = []
        self.numbers: list[list[int]] = []
        """Numbers of the patterns of each task."""
        for task in config.tasks:
            self.numbers.append([])
            for pattern in task.patterns:
                self.numbers[-1].append(len(self.classifiers))
                classifier = ClozeClassifier.of(
                    task, pattern, backbone, config.backbone, loss_kind=config.loss, engine=engine
                )
                self.classifiers.append(classifier)

    def items(self, train_sets: Sequence[Sequence[Example]]) -> list[TaskItem]:
        """Encodes each example once per pattern of its task. `train_sets`: labeled examples of each task."""
        return [
            TaskItem(number, item)
            for numbers, examples in zip(self.numbers, train_sets, strict=True)
            for number in numbers
            for item in self.classifiers[number].items(examples)
        ]

    def loss(self, part: list[TaskItem], batch: list[TaskItem]) -> Tensor:
        """Returns what a part of a batch contributes to its loss: the mean over all of its items."""
        groups: dict[int, list[LabeledCloze]] = {}
        for number, item in part:
            groups.setdefault(number, []).append(item)
        parts = [(self.classifiers[number], [item.cloze for item in items]) for number, items in groups.items()]
        losses = [
            self.classifiers[number].compute_loss(logits_BC, items) * mean_share(items, batch)
            for (number, items), logits_BC in zip(groups.items(), multi_task_logits(parts, training=True), strict=True)
        ]
        return torch.stack(losses).sum()
