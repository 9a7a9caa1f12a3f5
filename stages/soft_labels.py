"""The soft-label stage: the ensemble of all members labels the unlabelled pile.

Every member has labelled the pile already (stages/ensembles/members.py); here their votes are calibrated, weighted and
mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from stages.ensembles.mixing import Calibration, Mean, Weights
from stages.measures.metrics import Measured, Score, softmax
from stages.protocols import Engine, Recorder
from stages.tasks import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NUM_DISPUTED = 30
"""Texts in the table of those that members disagree about most."""


class EnsembleConfig(BaseModel, frozen=True, extra="forbid"):
    """How the votes of the members become one."""

    mean: Mean = Field(
        "logits",
        description="Mean of raw logits (as PET) or of probabilities (for members of different kinds).",
    )
    weights: Weights = Field(
        "uniform",
        description="Weights of the members: uniform, accuracy (on the labelled set before training), or balanced "
        "(every kind of member weighs the same, however many members it has).",
    )
    calibration: Calibration = Field(
        "none",
        description="What takes a member's preference for a label away: none, contextual (texts without content), or "
        "pile (the unlabelled texts; for labels that are about equally frequent).",
    )
    temperature: float = Field(1.0, gt=0, description="Divides the logits: above 1 makes soft labels softer.")


class Config(BaseModel, frozen=True, extra="forbid"):
    """The ensemble and what it labels."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    ensemble: EnsembleConfig = Field(EnsembleConfig(), description="How votes are mixed.")
    members: tuple[str, ...] = Field(description="Names of the members, in the order of the inputs.")
    groups: tuple[str, ...] = Field(description="Kind of each member, for balanced weights.")
    dropped: tuple[str, ...] = Field((), description="Members that failed and that the recipe lets be missing.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `members`: files of every member."""

    data: Path
    members: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Measured):
    """The ensemble's score on the test set and, where the hidden labels are known, on the pile that it labelled.

    Files: `soft_labels.jsonl` (uid, mixed logits by label) and `test_logits.jsonl`.
    """

    unlabeled: Score | None
    dropped: tuple[str, ...]
    weights: tuple[float, ...]


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Mixes the votes of all members on the pile and on the test set."""
    del engine
    from stages.ensembles.members import record_scores
    from stages.ensembles.mixing import mix, weigh
    from stages.measures import pictures
    from stages.measures.metrics import score
    from stages.texts.data import load_examples
    from stages.texts.logits import write_logits

    labels, ensemble = config.labels, config.ensemble
    pile = load_examples(inputs.data / "unlabeled.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    about = [json.loads((member / "result.json").read_text()) for member in inputs.members]
    weights = weigh(ensemble.weights, [item["train_accuracy_before"] for item in about], config.groups)
    votes, test_votes = (_votes(config, inputs.members, name) for name in ("unlabeled_logits", "test_logits"))
    mixed = mix(votes, weights, ensemble.mean, ensemble.temperature)
    write_logits(out / "soft_labels.jsonl", pile, mixed, labels)
    test_mixed = mix(test_votes, weights, ensemble.mean, ensemble.temperature)
    write_logits(out / "test_logits.jsonl", test_set, test_mixed, labels)
    gold = inputs.data / "unlabeled_gold.jsonl"
    unlabeled = None
    if gold.exists():
        unlabeled = score(mixed, [item.label or "" for item in load_examples(gold)], labels)
        recorder.metric("unlabeled/accuracy", unlabeled.accuracy)
    recorder.table(
        "weights",
        [
            {"member": name, "weight": round(float(weight), 6), "test_accuracy": item["test"]["accuracy"]}
            for name, weight, item in zip(config.members, weights, about, strict=True)
        ],
    )
    recorder.figure("agreement", pictures.agreement(test_votes, config.members))
    if pile:
        _record_pile(pile, votes, mixed, config, recorder)
    return Result(
        test=record_scores(test_mixed, test_set, labels, recorder),
        unlabeled=unlabeled,
        dropped=config.dropped,
        weights=tuple(round(float(weight), 6) for weight in weights),
        num_labelled=max(item["num_labelled"] for item in about),
        num_unlabelled=len(pile),
        trainable_parameters=sum(item["trainable_parameters"] for item in about),
    )


def _votes(config: Config, members: tuple[Path, ...], name: str) -> NDArray[np.float64]:
    """[M, n, C] logits of all members, calibrated."""
    import numpy as np

    from stages.ensembles.mixing import calibrate
    from stages.texts.logits import read_logits

    references = {"none": "", "contextual": "neutral_logits", "pile": "unlabeled_logits"}
    reference = references[config.ensemble.calibration]
    votes = []
    for member in members:
        logits = read_logits(member / f"{name}.jsonl", config.labels)
        if reference:
            logits = calibrate(logits, read_logits(member / f"{reference}.jsonl", config.labels))
        votes.append(logits)
    return np.stack(votes)


def _record_pile(
    pile: list[Example], votes: NDArray[np.float64], mixed: NDArray[np.float64], config: Config, recorder: Recorder
) -> None:
    """Records how unsure the soft labels are, and the texts that members disagree about most.

    Args:
        pile: The unlabelled texts.
        votes: [M, n, C] logits of the members.
        mixed: [n, C] logits of the ensemble.
        config: Names the labels.
        recorder: Gets the picture `entropy`, the table `disputed` and the mean entropy.
    """
    from stages.measures import pictures
    from stages.measures.confidence import entropies

    probabilities = softmax(mixed)
    unsure = entropies(probabilities)
    recorder.metric("unlabeled/entropy", float(unsure.mean()))
    recorder.figure("entropy", pictures.entropy(unsure))
    recorder.table("disputed", disputed(pile, votes, probabilities, config.labels))


def disputed(
    pile: list[Example], votes: NDArray[np.float64], probabilities: NDArray[np.float64], labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The texts with the fewest votes for their favourite label, among equal ones those of the least sure soft label.

    Args:
        pile: [n] texts.
        votes: [M, n, C] logits of the members.
        probabilities: [n, C] soft labels.
        labels: [C] names.
    """
    import numpy as np

    guesses = votes.argmax(axis=2)
    counts = np.stack([(guesses == place).sum(axis=0) for place in range(len(labels))], axis=1)
    order = np.lexsort((probabilities.max(axis=1), counts.max(axis=1)))[:NUM_DISPUTED]
    return [
        {
            **pile[row].fields,
            "votes": ", ".join(f"{labels[place]} {counts[row, place]}" for place in _largest(counts[row])),
            "soft_label": ", ".join(
                f"{labels[place]} {probabilities[row, place]:.2f}" for place in _largest(probabilities[row])
            ),
        }
        for row in order
    ]


def _largest(values: NDArray[Any]) -> list[int]:
    """Places of the up to three largest values that are not 0, the largest first."""
    return [int(place) for place in (-values).argsort(kind="stable")[:3] if values[place] > 0]
