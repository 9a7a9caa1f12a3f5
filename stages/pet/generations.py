"""Selects the pseudo-labeled examples of an iPET generation.

Schick & Schütze, EACL 2021, section 3.4. A sub-model of generation k is trained on the labeled set and on unlabeled
examples for which some of the OTHER sub-models of generation k - 1 are confident. The set grows by a factor in each
generation and keeps the class ratio of the labeled set. Without labeled examples the first generation is zero-shot,
and the second one starts with `examples_per_class` examples.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.data.step_outputs import aligned, read_logits
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.averaging import member_weights
from stages.common.seeds import python_rng
from stages.pet.config import GenerationConfig


def select_examples(
    config: GenerationConfig,
    gold: Sequence[Example],
    unlabeled_set: Sequence[Example],
    folders: Sequence[Path],
    labels: Sequence[str],
    seed: int,
) -> list[Example]:
    """The texts of a generation, labelled by the teachers.

    Args:
        config: The generation.
        gold: The labelled set.
        unlabeled_set: The unlabelled texts.
        folders: Files of the teachers.
        labels: All labels, in the order of the logits.
        seed: Seed of the drawing.
    """

    about = [json.loads((folder / "result.json").read_text()) for folder in folders]
    weights = member_weights(
        config.weights, [item["train_accuracy_before_training"] for item in about], [""] * len(folders)
    )
    uids = [item.uid for item in unlabeled_set]
    votes = np.stack([aligned(read_logits(folder / "unlabeled_logits.jsonl", labels), uids) for folder in folders])
    logits = np.average(votes, axis=0, weights=weights)
    rng = python_rng(seed, "generation", config.generation)
    among = config.num_most_likely if config.from_zero and config.generation == 1 else None
    return sample_by_confidence(unlabeled_set, softmax(logits), labels, config.targets(labels, gold), rng, among)


def sample_by_confidence(
    unlabeled_set: Sequence[Example],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    targets: dict[str, int],
    rng: random.Random,
    most_confident: int | None = None,
) -> list[Example]:
    """Draws texts without replacement, a text as likely as its label is sure.

    Args:
        unlabeled_set: [n] texts.
        probabilities: [n, C] what the teachers say of them.
        labels: [C] labels.
        targets: Label -> number of texts wanted; fewer are drawn where the pile has not so many.
        rng: Draws.
        most_confident: Draw among so many of the likeliest texts of each label, even if another label is likelier: an
            untrained model may prefer one label everywhere. A text that several labels claim goes to the one where it
            ranks highest, so that no label takes all.
    """

    owners, is_eligible = probabilities.argmax(axis=1), np.full(len(unlabeled_set), fill_value=True)
    if most_confident is not None:
        ranks = (-probabilities).argsort(axis=0, kind="stable").argsort(axis=0)
        owners, is_eligible = ranks.argmin(axis=1), ranks.min(axis=1) < most_confident
    sureness = probabilities[np.arange(len(unlabeled_set)), owners]
    found: list[Example] = []
    for number, label in enumerate(labels):
        rows = np.flatnonzero((owners == number) & is_eligible & (sureness > 0)).tolist()
        # the largest keys of u^(1/w) are a draw without replacement in proportion to w (Efraimidis & Spirakis, 2006);
        # their logarithms, since what an untrained model finds unlikely would underflow
        keys = {row: math.log(1 - rng.random()) / sureness[row] for row in rows}
        chosen = sorted(keys, key=lambda row: -keys[row])[: targets[label]]
        found += [replace(unlabeled_set[row], label=label) for row in sorted(chosen)]
    return found
