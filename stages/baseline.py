"""The baseline stage: the student's encoder trained on the few labelled examples alone. What clozeline has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, model_validator

from stages.errors import InputError
from stages.measures.metrics import Measured
from stages.models.classifier import StudentConfig, check_loop
from stages.protocols import Engine, Recorder
from stages.tasks import Example
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.classifier import TextClassifier


class Config(BaseModel, frozen=True, extra="forbid"):
    """The student, trained without soft labels."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    fields: tuple[str, ...] = Field(description="Fields to read; those behind the first make up its pair.")
    student: StudentConfig = Field(description="The encoder.")
    loop: LoopConfig | None = Field(description="Length and rates of the training; none for student.tune: head.")
    seed: int = Field(description="Seed of head, order and dropout.")

    @model_validator(mode="after")
    def _loop_fits(self) -> Config:
        check_loop(self.student, self.loop)
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """The baseline's score; no loss for tune: head. Files: the classifier in `model/`, `test_logits.jsonl` and
    `losses.json`.
    """

    final_loss: float | None


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on the labelled set, tests it, and writes it to `out`.

    Raises:
        InputError: there are no labelled examples.
    """
    from stages.models.classifier import TextClassifier, finish
    from stages.texts.data import load_examples
    from stages.training.curves import write_losses

    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("the baseline learns from labelled examples.", "Add some, or take it out.", key="baseline")
    student = TextClassifier.fresh(config.student, config.labels, config.fields, config.seed)
    losses = _teach(student, train_set, config, inputs, recorder, engine)
    write_losses(out, losses)
    test = finish(student, inputs.data, out, recorder)
    return Result(
        test=test,
        final_loss=losses[-1] if losses else None,
        num_labelled=len(train_set),
        num_unlabelled=0,
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
    )


def _teach(
    student: TextClassifier,
    train_set: list[Example],
    config: Config,
    inputs: Inputs,
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains all of the student, or fits its head; returns the loss of every step."""
    import torch.nn.functional as F  # noqa: N812

    from stages.models.classifier import dev_validation
    from stages.training.loop import train

    if config.loop is None:
        targets = F.one_hot(student.indices(train_set), len(config.labels))
        features = student.embed(train_set, recorder, "labelled set")
        student.fit_head(features, targets, config.student.head_strength)
        return []

    def loss_of(batch: list[Example]) -> Tensor:
        logits = student.logits(batch)
        return F.cross_entropy(logits, student.indices(batch).to(logits.device))

    student.train_mode(True)
    validate = dev_validation(student, inputs.data, config.loop, recorder)
    return train(
        train_set, loss_of, student.parameters, config.loop,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
    )  # fmt: skip
