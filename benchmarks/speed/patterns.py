"""Compares six patterns that start with the text over one cache of the text with one pass per pattern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.timing import Effort, film_examples, markdown_table, median_ratio, recipe, time_in_turns
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_sharing import predict_patterns
from stages.common.patterns.config import Task
from stages.common.protocols import NullRecorder

ENDINGS = {
    "summary": "\nIn summary, the film is{mask}",
    "all": " All in all, it was{mask}",
    "short": "\nIn short:{mask}",
    "verdict": "\nThe critic's verdict:{mask}",
    "think": " So I think that the film is{mask}",
    "opinion": "\nMy opinion of this film is{mask}",
}
WORDS = {"rotten": ["bad"], "fresh": ["good"]}
GOAL = 2.5


def patterns(effort: Effort) -> str:
    """Returns two tables: speed and agreement of the predictions."""
    recorder = NullRecorder()
    examples = film_examples(effort.reduce(200))
    classifiers = load_classifiers("auto")
    scores: dict[str, list[NDArray[np.float64]]] = {}

    def predict_with_cache() -> None:
        scores["cached"] = predict_patterns(classifiers, examples, recorder, "")

    def predict_separately() -> None:
        scores["separate"] = [classifier.predict(examples, recorder, "") for classifier in classifiers]

    seconds = time_in_turns({"cached": predict_with_cache, "separate": predict_separately}, effort.turns)
    speeds = {name: f"{len(examples) / median(seconds[name]):.1f}" for name in seconds}
    ratio = median_ratio(seconds["separate"], seconds["cached"])
    rows = [
        ["six passes", speeds["separate"], "1.0", ""],
        ["one cache of the text", speeds["cached"], f"{ratio:.1f}", f"{GOAL}"],
    ]
    speed = markdown_table(["six patterns, SmolLM2-135M", "examples/s", "ratio", "goal"], rows)
    rows = [agreement(str(classifiers[0].backbone.model.dtype), scores["separate"], scores["cached"])]
    few, exact = examples[:24], load_classifiers("fp32")
    separate = [classifier.predict(few, recorder, "") for classifier in exact]
    rows.append(agreement("torch.float32", separate, predict_patterns(exact, few, recorder, "")))
    head = [
        "weights",
        "predictions",
        "equal",
        "different",
        "largest gap of a different one",
        "difference of the scores",
    ]
    return f"{speed}\nGaps in units of bfloat16 rounding at the size of the scores:\n\n{markdown_table(head, rows)}"


def load_classifiers(precision: str) -> list[ClozeClassifier]:
    """Loads one backbone and returns its classifiers for the six patterns."""
    texts = {name: "{text}" + ending for name, ending in ENDINGS.items()}
    task = Task(name="films", labels=tuple(WORDS), patterns=texts, verbalizer=WORDS)
    config = BackboneConfig(**{**recipe()["backbone"], "precision": precision})
    backbone = load_backbone(config, frozen=True)
    return [ClozeClassifier.of(task, name, backbone, config) for name in texts]


def agreement(dtype: str, separate: Sequence[NDArray[np.float64]], cached: Sequence[NDArray[np.float64]]) -> list[str]:
    """Compares the scores [n, 2] of each pattern and returns a row of the table.

    The gap of a prediction is the difference between the scores of its two labels in the separate passes. If it is one
    or two units, rounding alone decides.
    """
    gaps, differences, num_equal = [], [], 0
    for separate_scores, cached_scores in zip(separate, cached, strict=True):
        for one, other in zip(separate_scores, cached_scores, strict=True):
            unit = bfloat16_unit(max(abs(one)))
            differences.append(float(abs(one - other).max()) / unit)
            if one.argmax() == other.argmax():
                num_equal += 1
            else:
                gaps.append(abs(one[0] - one[1]) / unit)
    total = len(differences)
    largest = f"{max(gaps):.2f}" if gaps else ""
    difference = f"{median(differences):.2g} (median), {max(differences):.2g} (largest)"
    return [dtype.removeprefix("torch."), f"{total}", f"{num_equal / total:.2%}", f"{len(gaps)}", largest, difference]


def bfloat16_unit(value: float) -> float:
    """Returns the distance of neighboring bfloat16 numbers (8 significant bits) at `value`."""
    return float(2.0 ** (math.floor(math.log2(value)) - 7))
