"""A member of the ensemble: any step that leaves these files behind, whatever kind of model it is.

    test_logits.jsonl        [n, C] logits of the test set
    unlabeled_logits.jsonl   [n, C] logits of the unlabelled pile
    neutral_logits.jsonl     [3, C] logits of texts without content, for contextual calibration

Each member labels the pile itself, while its model is in memory; the ensemble only mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stages.measures.metrics import Measured, Score, class_table, score
from stages.protocols import Recorder
from stages.tasks import Example
from stages.texts.data import load_examples
from stages.texts.logits import write_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEUTRAL = ("N/A", "[MASK]", "...")
"""Texts that say nothing (Zhao et al., "Calibrate Before Use", ICML 2021)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member(Measured):
    """What a member says of itself. `train_accuracy_before` is its weight in an ensemble weighted by accuracy: on the
    labelled set, before training; 0 where there are no labels.
    """

    train_accuracy_before: float


class Predictor(Protocol):
    """Anything that gives logits."""

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """[n, C] logits, in the order of `examples`."""


def label_everything(model: Predictor, labels: Sequence[str], data: Path, out: Path, recorder: Recorder) -> Score:
    """Writes a member's files to `out`; returns its score on the test set.

    Args:
        model: The trained member.
        labels: [C] labels, in the order of the logits.
        data: Files of the split stage.
        out: Where the files go.
        recorder: Gets progress and the scores.
    """
    pile = load_examples(data / "unlabeled.jsonl")
    if pile:
        write_logits(out / "unlabeled_logits.jsonl", pile, model.predict(pile, recorder, "unlabelled texts"), labels)
        neutral = [Example(f"neutral-{text}", dict.fromkeys(pile[0].fields, text)) for text in NEUTRAL]
        write_logits(out / "neutral_logits.jsonl", neutral, model.predict(neutral, recorder, "neutral texts"), labels)
    return measure(model, labels, data, out, recorder)


def measure(model: Predictor, labels: Sequence[str], data: Path, out: Path, recorder: Recorder) -> Score:
    """Writes `test_logits.jsonl` to `out` and records the scores; returns the score."""
    test_set = load_examples(data / "test.jsonl")
    logits = model.predict(test_set, recorder, "test set")
    write_logits(out / "test_logits.jsonl", test_set, logits, labels)
    return record_scores(logits, test_set, labels, recorder)


def record_scores(
    logits: NDArray[np.float64], test_set: Sequence[Example], labels: Sequence[str], recorder: Recorder
) -> Score:
    """The score of [n, C] logits on the test set; recorded with the table of classes and the confusion matrix."""
    from stages.measures import pictures

    gold = [item.label or "" for item in test_set]
    found = score(logits, gold, labels, [item.group for item in test_set])
    for name in ("accuracy", "macro_f1", "mcc", "ece", "exact_match"):
        if (value := getattr(found, name)) is not None:
            recorder.metric(f"test/{name}", value)
    classes = class_table(logits, gold, labels)
    recorder.table("per_class", classes)
    recorder.figure("confusion", pictures.confusion(classes))
    return found
