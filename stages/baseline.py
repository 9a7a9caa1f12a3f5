"""The baseline stage: the student's encoder trained on the few labelled examples alone. What clozeline has to beat."""

from __future__ import annotations

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
    """The student, trained without soft labels."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    fields: tuple[str, ...] = Field(description="One field to read, or two that are read as a pair.")
    student: StudentConfig = Field(description="The encoder.")
    loop: LoopConfig = Field(description="Length and rates of the training.")
    seed: int = Field(description="Seed of head, order and dropout.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """The baseline's score. Files: the classifier in `model/`, and `test_logits.jsonl`."""

    final_loss: float


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fine-tunes the encoder on the labelled set, tests it, and writes it to `out`."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from stages.classifier import TextClassifier, finish
    from stages.data import load_examples
    from stages.loop import train

    labels = config.labels
    train_set = load_examples(inputs.data / "train.jsonl")
    student = TextClassifier.fresh(config.student, labels, config.fields, config.seed)

    def loss_of(batch: list[Example]) -> Tensor:
        logits = student.logits(batch)
        gold = torch.tensor([labels.index(item.label or "") for item in batch], device=logits.device)
        return F.cross_entropy(logits, gold)

    student.train_mode(True)
    losses = train(
        train_set,
        loss_of,
        student.parameters,
        config.loop,
        seed=config.seed,
        recorder=recorder,
        engine=engine,
    )
    test = finish(student, inputs.data, out, recorder)
    return Result(
        test=test,
        final_loss=losses[-1],
        num_labelled=len(train_set),
        num_unlabelled=0,
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
    )
