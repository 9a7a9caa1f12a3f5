"""Trains the student: a text encoder with a linear head. Distillation and the baseline differ only in its targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict, TypeVar

from torch import Tensor

from stages.common.data.step_outputs import write_losses
from stages.common.examples import Example, load_examples
from stages.common.metrics.classification import Score
from stages.common.models.backbones.partitioned import sharding_units
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import Engine, Recorder
from stages.common.training.config import ParameterGroup
from stages.common.training.evaluation import dev_validation, evaluate_with_errors
from stages.common.training.loop import LengthGroupedSampler, train
from stages.common.training.student_config import StudentTrainingConfig

Item = TypeVar("Item")


class HeadTargets(NamedTuple):
    """Targets of all items, for a head that is fitted: probabilities [n, C] and weights [n]. Default weight: 1."""

    probabilities: Tensor
    weights: Tensor | None = None


class StudentTargets(Protocol[Item]):
    """The items that a student is trained on, and their targets."""

    @property
    def items(self) -> Sequence[Item]:
        """The training items."""

    def examples(self, items: Sequence[Item]) -> list[Example]:
        """Returns the example of each item."""

    def loss(self, logits_BC: Tensor, part: Sequence[Item], batch: Sequence[Item] | None = None) -> Tensor:
        """Returns what a part of a batch contributes to the loss of the batch, for tune: full. `logits_BC` are those of
        the part. Default: the part is the batch.
        """

    def head_targets(self) -> HeadTargets:
        """Returns the targets of all items, for tune: head."""


class FittedStudent(NamedTuple):
    """A trained student, and the loss of every step; no losses for a head that is fitted."""

    classifier: TextClassifier
    losses: list[float]


class StudentResult(TypedDict):
    """The fields that the results of both stages share. Without training steps there is no loss."""

    test: Score
    final_loss: float | None
    trainable_parameters: int
    num_parameters: int
    fraction_cut: float


def fit_student(
    config: StudentTrainingConfig,
    targets: StudentTargets[Item],
    *,
    data: Path,
    recorder: Recorder,
    engine: Engine,
    name: str = "checkpoint",
) -> FittedStudent:
    """Trains all weights of the student, or fits its head.

    Args:
        config: The student and its training.
        targets: What it is trained on.
        data: Files of the split stage, with the dev set.
        recorder: Gets the curves.
        engine: Runs the backward pass and the update.
        name: Name of the checkpoint, which differs if a stage trains several students.
    """
    student = TextClassifier.from_encoder(
        config.student, config.labels, config.fields, config.seed, problem_type=config.problem_type
    )
    if config.training is None:
        features = student.embed(targets.examples(targets.items), recorder, "training set")
        probabilities, weights = targets.head_targets()
        student.fit_head(features, probabilities, config.student.head_regularization_c, weights)
        return FittedStudent(student, [])

    def compute_loss(part: list[Item], batch: list[Item]) -> Tensor:
        return targets.loss(student.logits(targets.examples(part)), part, batch)

    encoder = student.encoder.model
    student.encoder.model = engine.load_trained(lambda: encoder, find_units=sharding_units)
    groups: dict[str, ParameterGroup] = {
        key: "head" if key.startswith("head.") else "backbone" for key in student.parameters
    }
    lengths = [student.encoder.num_characters(item) for item in targets.examples(targets.items)]
    student.train_mode(True)
    losses = train(
        targets.items, compute_loss, student.parameters, config.training,
        seed=config.seed, recorder=recorder, engine=engine, name=name, groups=groups,
        validate=dev_validation(student, student.problem, data, config.training, recorder),
        sample=LengthGroupedSampler(lengths, config.training.batch_size, config.seed),
    )  # fmt: skip
    return FittedStudent(student, losses)


def write_student(
    fitted: FittedStudent, config: StudentTrainingConfig, data: Path, out: Path, recorder: Recorder
) -> StudentResult:
    """Evaluates a student, and writes it to `out`: the classifier in `model/`, `test_logits.jsonl`, `losses.json`."""
    student, losses = fitted
    write_losses(out, losses)
    test = evaluate_with_errors(student, student.problem, data, out, recorder)
    (out / "model").mkdir()
    student.save(out / "model")
    return StudentResult(
        test=test,
        final_loss=losses[-1] if losses else None,
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
        num_parameters=student.num_parameters,
        fraction_cut=round(student.encoder.fraction_cut(load_examples(data / "test.jsonl")), 6),
    )
