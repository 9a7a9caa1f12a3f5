"""iPET: generations of sub-models, each trained on texts that sub-models of the generation before have labelled.

Schick & Schütze, EACL 2021, section 3.4. A sub-model of generation k learns from the labelled set and from texts of
the pile that some of the OTHER sub-models of generation k - 1 are sure of; the set grows by `scale` each generation
and keeps the class ratio of the labelled one. Without labelled examples the first generation is zero-shot, and the
second starts from `examples_per_class` texts.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from stages.ensembles.mixing import weigh
from stages.measures.metrics import softmax
from stages.seeds import python_rng
from stages.tasks import Example
from stages.texts.logits import read_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DrawConfig(BaseModel, frozen=True, extra="forbid"):
    """How texts are drawn and labelled for the next generation."""

    scale: float = Field(5.0, gt=1, description="Growth of the training set from one generation to the next.")
    weights: Literal["uniform", "accuracy"] = Field(
        "uniform", description="Weights of the teachers: uniform, or accuracy before training."
    )
    examples_per_class: int = Field(
        10, ge=1, description="Without labelled examples: texts a class in the first trained generation."
    )
    most_confident: int | None = Field(
        None,
        ge=1,
        description="Without labelled examples: the first trained generation draws among so many texts that are "
        "likeliest of a class, even if another one is likelier; none: among those whose likeliest class it is.",
    )


class IpetConfig(DrawConfig, frozen=True):
    """The generations after the first."""

    generations: int = Field(2, ge=1, description="Generations after the first; the paper's three in all are 2 here.")
    teacher_share: float = Field(
        0.25, gt=0, le=1, description="Share of the other sub-models that label for one, at least one of them."
    )


class GrowthConfig(DrawConfig, frozen=True):
    """One later generation, as a sub-model's step sees it: what comes after it is no part of its identity."""

    generation: int = Field(ge=1, description="Number of the generation; the first one is 0.")
    from_zero: bool = Field(description="Whether there are no labelled examples.")

    @classmethod
    def of(cls, ipet: IpetConfig, generation: int, has_labels: bool) -> GrowthConfig:
        """Generation number `generation` of `ipet`."""
        shared = {name: getattr(ipet, name) for name in DrawConfig.model_fields}
        return cls(**shared, generation=generation, from_zero=not has_labels)

    def targets(self, labels: Sequence[str], gold: Sequence[Example]) -> dict[str, int]:
        """Label -> how many texts are to be drawn: the whole set's size less the labelled examples."""
        if self.from_zero:
            return dict.fromkeys(labels, round(self.examples_per_class * self.scale ** (self.generation - 1)))
        counts = Counter(item.label for item in gold)
        return {label: round(counts[label] * self.scale**self.generation) - counts[label] for label in labels}


def teachers(names: Sequence[str], own: str, share: float, rng: random.Random) -> tuple[str, ...]:
    """Some of the other sub-models, at least one, in the order of `names`."""
    others = [name for name in names if name != own]
    chosen = set(rng.sample(others, max(1, round(share * len(others)))))
    return tuple(name for name in others if name in chosen)


def draw(
    config: GrowthConfig,
    gold: Sequence[Example],
    pile: Sequence[Example],
    folders: Sequence[Path],
    labels: Sequence[str],
    seed: int,
) -> list[Example]:
    """The texts of a generation, labelled by the teachers.

    Args:
        config: The generation.
        gold: The labelled set.
        pile: The unlabelled texts.
        folders: Files of the teachers.
        labels: All labels, in the order of the logits.
        seed: Seed of the drawing.
    """
    import numpy as np

    about = [json.loads((folder / "result.json").read_text()) for folder in folders]
    weights = weigh(config.weights, [item["train_accuracy_before"] for item in about], [""] * len(folders))
    votes = np.stack([read_logits(folder / "unlabeled_logits.jsonl", labels) for folder in folders])
    logits = np.average(votes, axis=0, weights=weights)
    rng = python_rng(seed, "generation", config.generation)
    among = config.most_confident if config.from_zero and config.generation == 1 else None
    return pick(pile, softmax(logits), labels, config.targets(labels, gold), rng, among)


def pick(
    pile: Sequence[Example],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    targets: dict[str, int],
    rng: random.Random,
    most_confident: int | None = None,
) -> list[Example]:
    """Draws texts without replacement, a text as likely as its label is sure.

    Args:
        pile: [n] texts.
        probabilities: [n, C] what the teachers say of them.
        labels: [C] labels.
        targets: Label -> number of texts wanted; fewer are drawn where the pile has not so many.
        rng: Draws.
        most_confident: Draw among so many of the likeliest texts of each label, even if another label is likelier: an
            untrained model may prefer one label everywhere. A text that several labels claim goes to the one where it
            ranks highest, so that no label takes all.
    """
    import numpy as np

    owners, is_eligible = probabilities.argmax(axis=1), np.full(len(pile), fill_value=True)
    if most_confident is not None:
        ranks = (-probabilities).argsort(axis=0, kind="stable").argsort(axis=0)
        owners, is_eligible = ranks.argmin(axis=1), ranks.min(axis=1) < most_confident
    sureness = probabilities[np.arange(len(pile)), owners]
    found: list[Example] = []
    for number, label in enumerate(labels):
        rows = np.flatnonzero((owners == number) & is_eligible & (sureness > 0)).tolist()
        # the largest keys of u^(1/w) are a draw without replacement in proportion to w (Efraimidis & Spirakis, 2006);
        # their logarithms, since what an untrained model finds unlikely would underflow
        keys = {row: math.log(1 - rng.random()) / sureness[row] for row in rows}
        chosen = sorted(keys, key=lambda row: -keys[row])[: targets[label]]
        found += [replace(pile[row], label=label) for row in sorted(chosen)]
    return found
