"""Six patterns that begin with the text: one cache of the text for all of them, against a pass for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.speed.timing import Effort, film_texts, in_turns, ratio, recipe, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENDINGS = {
    "summary": "\nIn summary, the film is{mask}",
    "all": " All in all, it was{mask}",
    "short": "\nIn short:{mask}",
    "verdict": "\nThe critic's verdict:{mask}",
    "think": " So I think that the film is{mask}",
    "opinion": "\nMy opinion of this film is{mask}",
}
WORDS = {"rotten": ["bad"], "fresh": ["good"]}
AIM = 2.5


def patterns(effort: Effort) -> str:
    """The tables: speed, then agreement."""
    from stages.common.models.cloze.prefix_sharing import predict_patterns
    from stages.common.protocols import NullRecorder

    recorder = NullRecorder()
    texts = film_texts(effort.of(200))
    found = classifiers("auto")
    kept: dict[str, list[NDArray[np.float64]]] = {}

    def shared() -> None:
        kept["shared"] = predict_patterns(found, texts, recorder, "")

    def apart() -> None:
        kept["apart"] = [item.predict(texts, recorder, "") for item in found]

    seconds = in_turns({"shared": shared, "apart": apart}, effort.turns)
    times = ratio(seconds["apart"], seconds["shared"])
    rows = [
        ["six passes", f"{len(texts) / median(seconds['apart']):.1f}", "1.0", ""],
        ["one cache of the text", f"{len(texts) / median(seconds['shared']):.1f}", f"{times:.1f}", f"{AIM}"],
    ]
    speed = table(["six patterns, SmolLM2-135M", "texts/s", "times", "aim"], rows)
    rows = [agreement(str(found[0].backbone.model.dtype), kept["apart"], kept["shared"])]
    few, exact = texts[:24], classifiers("fp32")
    alone = [item.predict(few, recorder, "") for item in exact]
    rows.append(agreement("torch.float32", alone, predict_patterns(exact, few, recorder, "")))
    head = ["weights", "predictions", "equal", "differ", "their gap, largest", "scores of the two ways differ by"]
    return f"{speed}\nGaps in units of bfloat16's rounding at the size of the scores:\n\n{table(head, rows)}"


def classifiers(precision: str) -> list[Any]:
    """The six patterns on one backbone."""
    from stages.common.models.backbones.config import BackboneConfig
    from stages.common.models.backbones.loader import load_backbone
    from stages.common.models.cloze.classifier import ClozeClassifier
    from stages.common.patterns.config import Task

    texts = {name: "{text}" + ending for name, ending in ENDINGS.items()}
    task = Task(name="films", labels=tuple(WORDS), patterns=texts, verbalizer=WORDS)
    config = BackboneConfig(**{**recipe()["backbone"], "precision": precision})
    backbone = load_backbone(config, frozen=True)
    return [ClozeClassifier.of(task, name, backbone, config) for name in texts]


def agreement(dtype: str, apart: Sequence[NDArray[np.float64]], shared: Sequence[NDArray[np.float64]]) -> list[str]:
    """A row on [P] times [n, 2] scores. The gap of a prediction is that of its two labels' scores in the six passes:
    where it is a unit or two, rounding alone decides.
    """
    gaps, moves, num_equal = [], [], 0
    for one, other in zip(apart, shared, strict=True):
        for alone, together in zip(one, other, strict=True):
            unit = rounding(max(abs(alone)))
            moves.append(float(abs(alone - together).max()) / unit)
            if alone.argmax() == together.argmax():
                num_equal += 1
            else:
                gaps.append(abs(alone[0] - alone[1]) / unit)
    num = len(moves)
    largest = f"{max(gaps):.2f}" if gaps else "none"
    spread = f"{median(moves):.2g} (median), {max(moves):.2g} (largest)"
    return [dtype.removeprefix("torch."), f"{num}", f"{num_equal / num:.2%}", f"{len(gaps)}", largest, spread]


def rounding(value: float) -> float:
    """Distance of neighbouring bfloat16 numbers (8 significant bits) at `value`."""
    return float(2.0 ** (math.floor(math.log2(value)) - 7))
