"""The distillation stage: one small classifier learns what the ensemble says of the unlabelled pile.

The soft labels come ready to be used: calibrated, weighted and tempered (stages/soft_labels.py). A student of which all
weights are trained (`tune: full`) learns by the loss of the original PET, KL(softmax(teacher / T) || softmax(student /
T)) * T^2, batch mean (Hinton et al., 2015, https://arxiv.org/abs/1503.02531). A linear head on a frozen encoder
(`tune: head`) is fitted to softmax(teacher) itself. There `temperature` has no place: it gives small probabilities a
say in each of a limited number of steps, while a fit that is carried to its end matches them as they are.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, model_validator

from stages.errors import InputError
from stages.measures.metrics import Measured, softmax
from stages.models.classifier import StudentConfig, check_loop
from stages.protocols import Engine, Recorder
from stages.seeds import python_rng
from stages.tasks import Example
from stages.training.loop import LoopConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stages.models.classifier import TextClassifier


class Config(BaseModel, frozen=True, extra="forbid"):
    """The student and how it learns."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    fields: tuple[str, ...] = Field(description="Fields to read; those behind the first make up its pair.")
    student: StudentConfig = Field(description="The encoder.")
    loop: LoopConfig | None = Field(description="Length and rates of the training; none for student.tune: head.")
    temperature: float = Field(
        2.0, gt=0, description="Softens the teacher's and the student's distribution, for student.tune: full."
    )
    gold_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the loss that comes from gold labels: of each batch's that has one, or of the whole fit.",
    )
    keep_share: float = Field(
        1.0, gt=0, le=1, description="Share of the texts of each predicted label that are kept, surest first."
    )
    min_confidence: float = Field(0.0, ge=0, lt=1, description="Texts whose top probability is lower are left out.")
    num_taught: int | None = Field(
        None, ge=1, description="Texts of the shards that are learnt from at the most; none: there are no shards."
    )
    seed: int = Field(description="Seed of head, order and dropout.")

    @model_validator(mode="after")
    def _loop_fits(self) -> Config:
        check_loop(self.student, self.loop)
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `soft_labels`: files of the soft-label stage; `shards`: files of the stage that
    labels shards, if there are some, from which the student then learns.
    """

    data: Path
    soft_labels: Path
    shards: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """The student's score; no loss for tune: head. `num_unlabelled` counts the texts that were kept.

    Files: the classifier (see stages/models/classifier.py) in `model/`, `test_logits.jsonl` and `losses.json`.
    """

    final_loss: float | None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text with the teacher's logits [C], and the index of its gold label, or -1."""

    example: Example
    teacher: tuple[float, ...]
    gold: int = -1


def surest(teacher: NDArray[np.float64], keep_share: float, min_confidence: float) -> list[int]:
    """Rows that are worth learning from, in order.

    Args:
        teacher: [n, C] logits.
        keep_share: Of the texts of each predicted label so many are kept, surest first, so that the ratio of the labels
            stays; at least one each.
        min_confidence: Top probability that each must have besides.
    """
    probabilities = softmax(teacher)
    confidence, guess = probabilities.max(axis=1), probabilities.argmax(axis=1)
    kept: list[int] = surest_of(confidence, guess, keep_share, min_confidence).tolist()
    return kept


def surest_of(
    confidence: NDArray[np.floating], guess: NDArray[np.integer], keep_share: float, min_confidence: float
) -> NDArray[np.int64]:
    """`surest` where each of [n] texts has its top `confidence`, and its likeliest label `guess`."""
    import numpy as np

    kept = [np.empty(0, dtype=np.int64)]
    for label in np.unique(guess):
        rows = np.flatnonzero(guess == label)
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: math.ceil(round(keep_share * len(rows), 6))]
        kept.append(rows[confidence[rows] >= min_confidence])
    return np.sort(np.concatenate(kept))


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
    """Trains the student on soft labels, tests it, and writes it to `out`.

    Raises:
        InputError: no text is left to learn from, or gold labels are asked for and there are none.
    """
    from stages.models.classifier import TextClassifier, finish
    from stages.training.curves import write_losses

    lessons, num_kept = _lessons(config, inputs)
    recorder.metric("distill/kept", num_kept)
    student = TextClassifier.fresh(config.student, config.labels, config.fields, config.seed)
    if config.loop is None:
        losses = []
        _fit_head(student, lessons, config, recorder)
    else:
        losses = _train(student, lessons, config, config.loop, inputs, recorder, engine)
    write_losses(out, losses)
    test = finish(student, inputs.data, out, recorder)
    return Result(
        test=test,
        final_loss=losses[-1] if losses else None,
        num_labelled=json.loads((inputs.soft_labels / "result.json").read_text())["num_labelled"],
        num_unlabelled=num_kept,
        trainable_parameters=sum(item.numel() for item in student.parameters.values()),
    )


def _lessons(config: Config, inputs: Inputs) -> tuple[list[Lesson], int]:
    """The soft-labelled texts that are kept, then the gold ones; and how many the former are."""
    from stages.texts.data import load_examples

    labels = config.labels
    lessons = _soft_lessons(config, inputs) if inputs.shards is None else _drawn_lessons(config, inputs.shards)
    gold = load_examples(inputs.data / "train.jsonl") if config.gold_share else []
    if config.gold_share and not gold:
        raise InputError(
            f"gold_share is {config.gold_share}, but there are no labelled examples.",
            "Set gold_share to 0, or add some.",
            key="distill.gold_share",
        )
    taught = [Lesson(item, (0.0,) * len(labels), labels.index(item.label or "")) for item in gold]
    return [*lessons, *taught], len(lessons)


def _soft_lessons(config: Config, inputs: Inputs) -> list[Lesson]:
    """The texts of the pile that are kept."""
    from stages.texts.data import load_examples
    from stages.texts.logits import read_logits

    pile = load_examples(inputs.data / "unlabeled.jsonl")
    if not pile:
        raise InputError("there are no unlabelled texts to learn from.", "Name some.", key="data.unlabeled")
    teacher = read_logits(inputs.soft_labels / "soft_labels.jsonl", config.labels)
    kept = surest(teacher, config.keep_share, config.min_confidence)
    if not kept:
        raise _nothing_left(config, float(softmax(teacher).max()))
    return [Lesson(pile[row], tuple(teacher[row])) for row in kept]


def _drawn_lessons(config: Config, shards: Path) -> list[Lesson]:
    """Texts drawn among those of all shards that are kept; only the drawn ones are held in memory."""
    from stages.texts.soft_shards import confidences, taken

    confidence, guess = confidences(shards, config.labels)
    kept = surest_of(confidence, guess, config.keep_share, config.min_confidence)
    if not len(kept):
        raise _nothing_left(config, float(confidence.max()))
    if config.num_taught is not None and len(kept) > config.num_taught:
        kept = kept[sorted(python_rng(config.seed, "shards").sample(range(len(kept)), config.num_taught))]
    return [Lesson(example, teacher) for example, teacher in taken(shards, kept, config.labels)]


def _nothing_left(config: Config, top: float) -> InputError:
    return InputError(
        f"no text is left to learn from: the surest soft label has the probability {top:.2f}.",
        f"Lower min_confidence (now {config.min_confidence}).",
        key="distill.min_confidence",
    )


def _train(
    student: TextClassifier,
    lessons: list[Lesson],
    config: Config,
    loop: LoopConfig,
    inputs: Inputs,
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains all weights; returns the loss of every step."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from stages.models.classifier import dev_validation
    from stages.training.loop import train

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
    validate = dev_validation(student, inputs.data, loop, recorder)
    return train(
        lessons, loss_of, student.parameters, loop,
        seed=config.seed, recorder=recorder, engine=engine, validate=validate,
    )  # fmt: skip


def _fit_head(student: TextClassifier, lessons: list[Lesson], config: Config, recorder: Recorder) -> None:
    """Fits the head to all lessons; together the gold ones weigh `gold_share` of the whole."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    gold = torch.tensor([item.gold for item in lessons])
    is_gold = gold >= 0
    targets = torch.softmax(torch.tensor([item.teacher for item in lessons], dtype=torch.float64), dim=1)
    targets[is_gold] = F.one_hot(gold[is_gold], len(config.labels)).double()
    share = torch.where(is_gold, config.gold_share, 1 - config.gold_share)
    of_its_kind = torch.where(is_gold, is_gold.sum(), (~is_gold).sum())
    features = student.embed([item.example for item in lessons], recorder, "soft-labelled texts")
    student.fit_head(features, targets, config.student.head_strength, len(lessons) * share / of_its_kind)
