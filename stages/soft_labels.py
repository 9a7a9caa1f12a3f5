"""The soft-label stage: the ensemble of all sub-models labels the unlabelled pile.

The ensemble is the (weighted) mean of the sub-models' raw logits, as in PET: uniform, or weighted by each sub-model's
accuracy on the labelled set before training. Over-confident patterns dominate such a mean, so the calibration error is
reported beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from stages.backbones import BackboneConfig
from stages.metrics import Measured, Score
from stages.protocols import Engine, Recorder
from stages.tasks import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Config(BaseModel, frozen=True, extra="forbid"):
    """The ensemble and what it labels."""

    task: Task = Field(description="Labels, patterns and label words.")
    backbone: BackboneConfig = Field(description="The language model of all sub-models.")
    weights: Literal["uniform", "accuracy"] = Field("uniform", description="Weights of the sub-models in the mean.")
    dropped: tuple[str, ...] = Field((), description="Sub-models that failed and that the recipe lets be missing.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `members`: files of every sub-model."""

    data: Path
    members: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """The ensemble's score on the test set and, where the hidden labels are known, on the pile that it labelled.

    Files: `soft_labels.jsonl` (uid, mean logits by label) and `test_logits.jsonl`.
    """

    unlabeled: Score | None
    dropped: tuple[str, ...]
    weights: tuple[float, ...]


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Labels the pile with every member in turn and writes the mean."""
    del engine
    import numpy as np

    from stages.data import load_examples
    from stages.logits import read_logits, write_logits
    from stages.metrics import score
    from stages.submodels import load_classifier

    labels = config.task.labels
    pile = load_examples(inputs.data / "unlabeled.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    about = [json.loads((member / "result.json").read_text()) for member in inputs.members]
    weights = _weights(config, [item["train_accuracy_before"] for item in about])
    votes = []
    for number, member in enumerate(inputs.members, 1):
        classifier = load_classifier(member, config.task, config.backbone)
        votes.append(classifier.predict(pile, recorder, f"member {number} of {len(inputs.members)}"))
        del classifier
    mean = np.average(np.stack(votes), axis=0, weights=weights)
    write_logits(out / "soft_labels.jsonl", pile, mean, labels)
    test_votes = np.stack([read_logits(member / "test_logits.jsonl", labels) for member in inputs.members])
    test_mean = np.average(test_votes, axis=0, weights=weights)
    write_logits(out / "test_logits.jsonl", test_set, test_mean, labels)
    test = score(test_mean, [item.label or "" for item in test_set], labels)
    gold = inputs.data / "unlabeled_gold.jsonl"
    unlabeled = None
    if gold.exists():
        unlabeled = score(mean, [item.label or "" for item in load_examples(gold)], labels)
        recorder.metric("unlabeled/accuracy", unlabeled.accuracy)
    recorder.metric("test/accuracy", test.accuracy)
    recorder.metric("test/macro_f1", test.macro_f1)
    _record_agreement(test_votes, inputs.members, recorder)
    return Result(
        test=test,
        unlabeled=unlabeled,
        dropped=config.dropped,
        weights=tuple(round(float(weight), 6) for weight in weights),
        num_labelled=max(item["num_labelled"] for item in about),
        num_unlabelled=len(pile),
        trainable_parameters=sum(item["trainable_parameters"] for item in about),
    )


def _weights(config: Config, accuracies: list[float]) -> NDArray[np.float64]:
    """Weights that sum to 1; uniform where all accuracies are 0."""
    import numpy as np

    if config.weights == "accuracy" and any(accuracies):
        return np.array(accuracies) / sum(accuracies)
    return np.full(len(accuracies), 1 / len(accuracies))


def _record_agreement(votes: NDArray[np.float64], members: tuple[Path, ...], recorder: Recorder) -> None:
    """How often each pair of members gives a test text the same label, as a heat map. `votes`: [members, n, C]."""
    from matplotlib.figure import Figure

    guesses = votes.argmax(axis=2)
    agreement = (guesses[:, None, :] == guesses[None, :, :]).mean(axis=2)
    figure = Figure(figsize=(1.2 + 0.7 * len(members), 1 + 0.6 * len(members)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(agreement, vmin=0.5, vmax=1, cmap="viridis")
    ticks = range(len(members))
    axes.set_xticks(ticks, [str(number + 1) for number in ticks])
    axes.set_yticks(ticks, [str(number + 1) for number in ticks])
    for row in ticks:
        for column in ticks:
            axes.text(column, row, f"{agreement[row, column]:.2f}", ha="center", va="center", color="white")
    axes.set_title("Agreement of sub-models")
    recorder.figure("agreement", figure)
