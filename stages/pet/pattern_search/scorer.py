"""Scores candidates of the pattern search on labeled examples. The logits of each pattern are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.common.data.groups import group_numbers
from stages.common.errors import PatternError
from stages.common.examples import Example, label_indices
from stages.common.models.averaging import cross_entropies
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.config import Task
from stages.common.protocols import Engine, Recorder
from stages.common.training.cross_validation import Indices
from stages.common.training.untrained_scores import HeldOutScore, calibrated_logits
from stages.pet.pattern_search.config import PatternSearchConfig


def pattern_task(config: PatternSearchConfig, text: str) -> Task:
    """Returns the task, whose pattern has another text."""
    return config.task.with_patterns({config.pattern: text})


@dataclass(slots=True)
class PatternScorer:
    """Scores patterns zero-shot on labeled examples, or on some of them."""

    config: PatternSearchConfig
    backbone: Backbone
    examples: Sequence[Example]
    recorder: Recorder
    engine: Engine
    gold: NDArray[np.int64] = field(init=False)
    """[n] indices of the labels."""
    groups: NDArray[np.int64] = field(init=False)
    """[n] numbers of the groups that folds do not separate."""
    _logits: dict[str, NDArray[np.float64] | None] = field(init=False, default_factory=dict)
    """Text of a pattern -> its logits [n, C]; None if it leaves no space for the texts of the examples."""

    def __post_init__(self) -> None:
        task = self.config.task
        self.gold = np.array(label_indices(self.examples, task.labels), dtype=np.int64)
        self.groups = np.array(group_numbers(self.examples, task.fields), dtype=np.int64)

    @property
    def num_scored(self) -> int:
        """Number of different patterns so far."""
        return len(self._logits)

    def fits(self, text: str) -> bool:
        """Returns True if a pattern leaves space for the texts of the examples."""
        if text not in self._logits:
            try:
                self._logits[text] = self._predict(text)
            except PatternError:
                self._logits[text] = None
        return self._logits[text] is not None

    def logits(self, text: str) -> NDArray[np.float64]:
        """Returns the logits [n, C] of a pattern that fits."""
        if not self.fits(text):
            self._predict(text)  # raises the error
        logits = self._logits[text]
        assert logits is not None
        return logits

    def loss(self, text: str, rows: Indices) -> float:
        """Returns the mean cross-entropy of some examples, without calibration."""
        return float(cross_entropies(self.logits(text)[rows], self.gold[rows]).mean())

    def score(self, text: str, rows: Indices) -> HeldOutScore:
        """Returns the score of some examples, with a calibration that is cross-validated among them. If no label has
        two examples, there is no calibration.
        """
        logits, gold = self.logits(text)[rows], self.gold[rows]
        calibrated = calibrated_logits(
            lambda _: logits, gold, self.num_labels, self.config.num_folds, groups=self.groups[rows].tolist()
        )
        return HeldOutScore.of(logits if calibrated is None else calibrated, gold)

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.config.task.labels)

    def _predict(self, text: str) -> NDArray[np.float64]:
        config = self.config
        classifier = ClozeClassifier.of(
            pattern_task(config, text), config.pattern, self.backbone, config.backbone, engine=self.engine
        )
        return classifier.predict(self.examples, self.recorder, f"labeled examples, pattern {len(self._logits) + 1}")
