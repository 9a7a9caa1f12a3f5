"""The soft-label stage: the ensemble of all members labels the unlabeled set.

Every member has already labeled the unlabeled set (stages/common/training/evaluation.py). This stage calibrates,
weights and averages their logits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.common import figures
from stages.common.data.split_files import load_examples
from stages.common.data.step_outputs import aligned, read_logits, write_logits
from stages.common.examples import Example
from stages.common.metrics.calibration import entropies
from stages.common.metrics.classification import EvaluationResult, Score, score, softmax
from stages.common.models.averaging import average_members, calibrate, member_weights
from stages.common.protocols import Engine, Recorder
from stages.common.training.evaluation import log_test_scores
from stages.soft_labels.config import SoftLabelsConfig

NUM_DISAGREEMENTS = 30
"""Texts in the table of those that members disagree about most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`data`: files of the split stage; `members`: files of every member."""

    data: Path
    members: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(EvaluationResult):
    """The ensemble's score on the test set and, where the hidden labels are known, on the pile that it labelled.

    Files: `soft_labels.jsonl` (uid, mixed logits by label) and `test_logits.jsonl`.
    """

    unlabeled: Score | None
    dropped: tuple[str, ...]
    weights: tuple[float, ...]


def run(config: SoftLabelsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Mixes the votes of all members on the pile and on the test set."""
    del engine

    labels, ensemble = config.labels, config.ensemble
    pile = load_examples(inputs.data / "unlabeled.jsonl")
    test_set = load_examples(inputs.data / "test.jsonl")
    about = [json.loads((member / "result.json").read_text()) for member in inputs.members]
    weights = member_weights(
        ensemble.weights, [item["train_accuracy_before_training"] for item in about], config.groups
    )
    votes = _member_logits(config, inputs.members, "unlabeled_logits", pile)
    test_votes = _member_logits(config, inputs.members, "test_logits", test_set)
    mixed = average_members(votes, weights, ensemble.average, ensemble.temperature)
    write_logits(out / "soft_labels.jsonl", pile, mixed, labels)
    test_mixed = average_members(test_votes, weights, ensemble.average, ensemble.temperature)
    write_logits(out / "test_logits.jsonl", test_set, test_mixed, labels)
    gold = inputs.data / "unlabeled_gold.jsonl"
    unlabeled = None
    if gold.exists():
        unlabeled = score(mixed, [item.label or "" for item in load_examples(gold)], labels)
        recorder.log_metric("unlabeled/accuracy", unlabeled.accuracy)
    recorder.log_table(
        "weights",
        [
            {"member": name, "weight": round(float(weight), 6), "test_accuracy": item["test"]["accuracy"]}
            for name, weight, item in zip(config.members, weights, about, strict=True)
        ],
    )
    recorder.log_figure("agreement", figures.agreement(test_votes, config.members))
    if pile:
        _log_soft_labels(pile, votes, mixed, config, recorder)
    return Result(
        test=log_test_scores(test_mixed, test_set, labels, recorder),
        unlabeled=unlabeled,
        dropped=config.dropped,
        weights=tuple(round(float(weight), 6) for weight in weights),
        num_labeled=max(item["num_labeled"] for item in about),
        num_unlabeled=len(pile),
        trainable_parameters=sum(item["trainable_parameters"] for item in about),
    )


def _member_logits(
    config: SoftLabelsConfig, members: tuple[Path, ...], name: str, examples: list[Example]
) -> NDArray[np.float64]:
    """[M, n, C] logits of all members, calibrated."""

    references = {"none": "", "contextual": "content_free_logits", "unlabeled": "unlabeled_logits"}
    reference = references[config.ensemble.calibration]
    votes = []
    for member in members:
        rows = read_logits(member / f"{name}.jsonl", config.labels)
        logits = aligned(rows, [item.uid for item in examples])
        if reference:
            logits = calibrate(logits, read_logits(member / f"{reference}.jsonl", config.labels).logits)
        votes.append(logits)
    return np.stack(votes)


def _log_soft_labels(
    unlabeled_set: list[Example],
    member_logits: NDArray[np.float64],
    mixed: NDArray[np.float64],
    config: SoftLabelsConfig,
    recorder: Recorder,
) -> None:
    """Records how unsure the soft labels are, and the texts that members disagree about most.

    Args:
        unlabeled_set: The unlabelled texts.
        member_logits: [M, n, C] logits of the members.
        mixed: [n, C] logits of the ensemble.
        config: Names the labels.
        recorder: Gets the picture `entropy`, the table `disputed` and the mean entropy.
    """

    probabilities = softmax(mixed)
    unsure = entropies(probabilities)
    recorder.log_metric("unlabeled/entropy", float(unsure.mean()))
    recorder.log_figure("entropy", figures.entropy(unsure))
    recorder.log_table("disagreements", disagreements(unlabeled_set, member_logits, probabilities, config.labels))


def disagreements(
    unlabeled_set: list[Example],
    member_logits: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    labels: tuple[str, ...],
) -> list[dict[str, Any]]:
    """The texts with the fewest votes for their favourite label, among equal ones those of the least sure soft label.

    Args:
        unlabeled_set: [n] texts.
        member_logits: [M, n, C] logits of the members.
        probabilities: [n, C] soft labels.
        labels: [C] names.
    """

    guesses = member_logits.argmax(axis=2)
    counts = np.stack([(guesses == place).sum(axis=0) for place in range(len(labels))], axis=1)
    order = np.lexsort((probabilities.max(axis=1), counts.max(axis=1)))[:NUM_DISAGREEMENTS]
    return [
        {
            **unlabeled_set[row].fields,
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
