"""The probe stage: a member of the ensemble that is a sentence encoder with logistic regression on the labels.

It sees texts quite unlike a cloze does, so that it errs elsewhere: what an ensemble wants of its members. The encoder
is frozen or, with `contrast`, tuned on pairs of labelled texts first, which makes the member a SetFit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from stages.ensembles.members import Member, label_everything
from stages.errors import InputError
from stages.models.classifier import StudentConfig
from stages.models.contrast import ContrastConfig
from stages.models.encoders import EncoderConfig
from stages.protocols import Engine, Recorder

if TYPE_CHECKING:
    from torch import Tensor

NUM_FOLDS = 10


class Config(BaseModel, frozen=True, extra="forbid"):
    """One probe. Without `contrast` nothing in it is random."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    fields: tuple[str, ...] = Field(description="Fields to read; those behind the first make up its pair.")
    encoder: EncoderConfig = Field(description="The sentence encoder.")
    strength: float = Field(1.0, gt=0, description="C of scikit-learn's LogisticRegression: higher fits closer.")
    contrast: ContrastConfig | None = Field(None, description="Tunes the encoder on pairs first; none: it is frozen.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage."""

    data: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Member):
    """Scores of the probe. A head that has not been fitted says nothing, so that its `train_accuracy_before`, the
    ensemble's accuracy weight, is the cross-validated accuracy on the labelled set, before any contrast.

    Files: those of a member (see stages/ensembles/members.py), and in `model/` the head, with the reference of a frozen
    encoder, which `clozeline predict` fetches again, or with the tuned encoder itself; in float32, whatever `precision`
    the member computed in.
    """


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Fits the probe, labels test set and pile, and writes all of it to `out`; every text is embedded once.

    Raises:
        InputError: there are no labelled examples.
    """
    import torch.nn.functional as F  # noqa: N812

    from stages.models.classifier import TextClassifier
    from stages.models.contrast import tune
    from stages.texts.data import load_examples

    train_set = load_examples(inputs.data / "train.jsonl")
    if not train_set:
        raise InputError(
            "a probe learns from labelled examples, and there are none.", "Add some, or take it out.", key="members"
        )
    student = StudentConfig(**config.encoder.model_dump(), tune="head", head_strength=config.strength)
    probe = TextClassifier.fresh(student, config.labels, config.fields, seed=0)
    probe.predicts_in_bf16 = probe.trains_in_bf16
    features, gold = probe.embed(train_set, recorder, "labelled set"), probe.indices(train_set)
    accuracy = cross_validated_accuracy(features, gold, len(config.labels), config.strength)
    recorder.metric("train/cross_validated_accuracy", accuracy)
    num_tuned = 0
    if config.contrast:
        bf16 = probe.trains_in_bf16
        num_tuned = tune(probe.encoder, train_set, config.contrast, bf16=bf16, recorder=recorder, engine=engine)
        features = probe.embed(train_set, recorder, "labelled set, tuned")
    probe.fit_head(features, F.one_hot(gold, len(config.labels)), config.strength)
    test = label_everything(probe, config.labels, inputs.data, out, recorder)
    (out / "model").mkdir()
    if config.contrast:
        probe.save(out / "model")
    else:
        probe.save_head(out / "model", config.encoder.asset)
    return Result(
        test=test,
        train_accuracy_before=accuracy,
        num_labelled=len(train_set),
        num_unlabelled=0,
        trainable_parameters=num_tuned + sum(item.numel() for item in probe.parameters.values()),
    )


def cross_validated_accuracy(features: Tensor, gold: Tensor, num_labels: int, strength: float) -> float:
    """Accuracy on texts that a head was not fitted on: at most 10 folds, in which every label has its share.

    Args:
        features: [n, D].
        gold: [n] indices of the labels.
        num_labels: C.
        strength: As in `Config`.

    Returns:
        Between 0 and 1; where no label has two texts, and nothing can be held out, that of guessing, 1 / C.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    from stages.models.linear_head import fit

    is_label = F.one_hot(gold, num_labels)
    num_folds = min(NUM_FOLDS, int(is_label.sum(dim=0).max()))
    if num_folds < 2:
        return round(1 / num_labels, 6)
    place = is_label.cumsum(dim=0).gather(1, gold[:, None])[:, 0] - 1  # how many of its label came before
    fold = place % num_folds
    num_right = 0
    for number in range(num_folds):
        held_out = fold == number
        weight, bias = fit(features[~held_out], is_label[~held_out], strength)
        guess = torch.argmax(F.linear(features[held_out], weight, bias), dim=1)
        num_right += int((guess == gold[held_out]).sum())
    return round(num_right / len(gold), 6)
