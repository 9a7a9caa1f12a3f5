"""The baseline stage: trains the student's encoder on the labeled examples only, as the reference to beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from stages.baseline.config import BaselineConfig
from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import write_losses
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.metrics.classification import EvaluationResult
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import dev_validation, evaluate_with_errors
from stages.common.training.loop import train


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """The baseline's score; no loss for tune: head. Files: the classifier in `model/`, `test_logits.jsonl` and
    `losses.json`.
    """

    final_loss: float | None


def run(config: BaselineConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Trains the student on the labelled set, tests it, and writes it to `out`.

    Raises:
        InputError: there are no labelled examples.
    """

    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError("the baseline learns from labelled examples.", "Add some, or take it out.", key="baseline")
    student = TextClassifier.from_encoder(config.student, config.labels, config.fields, config.seed)
    losses = _train(student, train_set, config, inputs, recorder, engine)
    write_losses(out, losses)
    test = evaluate_with_errors(student, student.labels, inputs.data, out, recorder)
    (out / "model").mkdir()
    student.save(out / "model")
    return Result(
        test=test,
        final_loss=losses[-1] if losses else None,
        num_labeled=len(train_set),
        num_unlabeled=0,
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
    )


def _train(
    student: TextClassifier,
    train_set: list[Example],
    config: BaselineConfig,
    inputs: Inputs,
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains all of the student, or fits its head; returns the loss of every step."""

    if config.training is None:
        targets = F.one_hot(student.indices(train_set), len(config.labels))
        features = student.embed(train_set, recorder, "labelled set")
        student.fit_head(features, targets, config.student.head_regularization_c)
        return []

    def loss_of(batch: list[Example]) -> Tensor:
        logits = student.logits(batch)
        return F.cross_entropy(logits, student.indices(batch).to(logits.device))

    student.train_mode(True)
    validate = dev_validation(student, student.labels, inputs.data, config.training, recorder)
    return train(
        train_set, loss_of, student.parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
    )  # fmt: skip
