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
from collections.abc import Mapping, Sequence
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
    teachers: Sequence[Path],
    labels: Sequence[str],
    *,
    seed: int,
) -> list[Example]:
    """Samples the examples of a generation, with the labels of the teachers.

    Args:
        config: The generation.
        gold: The labeled set.
        unlabeled_set: The unlabeled examples.
        teachers: Files of the teachers.
        labels: All labels, in the order of the logits.
        seed: Seed of the sample.

    Raises:
        DataError: a teacher labeled other examples.
    """
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in teachers]
    accuracies = [result["held_out_accuracy"] or 0.0 for result in results]
    weights = member_weights(config.weights, accuracies, [""] * len(teachers), len(gold), len(labels))
    uids = [item.uid for item in unlabeled_set]
    files = [folder / "unlabeled_logits.jsonl" for folder in teachers]
    member_logits = np.stack([aligned(read_logits(file, labels), uids) for file in files])
    probabilities = softmax(np.average(member_logits, axis=0, weights=weights))
    rng = python_rng(seed, "generation", config.generation)
    num_most_likely = config.num_most_likely if config.from_zero and config.generation == 1 else None
    targets = config.targets(labels, gold)
    return sample_by_confidence(unlabeled_set, probabilities, targets, rng, num_most_likely=num_most_likely)


def sample_by_confidence(
    unlabeled_set: Sequence[Example],
    probabilities: NDArray[np.float64],
    targets: Mapping[str, int],
    rng: random.Random,
    *,
    num_most_likely: int | None = None,
) -> list[Example]:
    """Samples examples in proportion to the confidence of their label, without replacement if there are enough.

    Args:
        unlabeled_set: [n] examples.
        probabilities: [n, C] predictions of the teachers, with columns in the order of `targets`.
        targets: Label -> number of examples. If the unlabeled set has fewer with this label, they occur several times,
            as in the original implementation, so that the class ratio stays. A label that no example has gets none.
        rng: Source of randomness.
        num_most_likely: If set, samples from this number of most likely examples of each label, even if another label
            is more likely: an untrained model may prefer one label everywhere. An example among the most likely of
            several labels goes to the one for which it ranks highest, so no label takes all.
    """
    assigned, is_eligible = probabilities.argmax(axis=1), np.full(len(unlabeled_set), fill_value=True)
    if num_most_likely is not None:
        ranks = (-probabilities).argsort(axis=0, kind="stable").argsort(axis=0)
        assigned, is_eligible = ranks.argmin(axis=1), ranks.min(axis=1) < num_most_likely
    confidence = probabilities[np.arange(len(unlabeled_set)), assigned]
    sampled: list[Example] = []
    for index, (label, target) in enumerate(targets.items()):
        rows = np.flatnonzero((assigned == index) & is_eligible & (confidence > 0)).tolist()
        if not rows:
            continue
        candidates = rows * max(1, math.ceil(target / len(rows))) if num_most_likely is None else rows
        # The largest keys u^(1/w) are a sample without replacement in proportion to w (Efraimidis & Spirakis, 2006).
        # Logarithms avoid the underflow for examples that an untrained model finds unlikely.
        keys = [math.log(1 - rng.random()) / confidence[row] for row in candidates]
        chosen = sorted(range(len(candidates)), key=lambda number: -keys[number])[:target]
        sampled += [replace(unlabeled_set[row], label=label) for row in sorted(candidates[number] for number in chosen)]
    return sampled
