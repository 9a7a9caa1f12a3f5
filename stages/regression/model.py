"""Predicts numbers with a cloze classifier whose two labels are the ends of the range.

A value is the mean of the ends, weighted with their probabilities. The loss is the cross-entropy with the weights of
the right value, which differs from the KL divergence of LM-BFF (Gao et al., ACL 2021, section 3.2) by a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.common.metrics.classification import DevScore, softmax
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.soft_input import SoftPrompt
from stages.common.models.cloze.classifier import ClozeClassifier, LabeledCloze
from stages.common.models.linear_heads import LinearHead
from stages.common.prompts.loader import ModelLoader
from stages.common.protocols import Engine, Recorder
from stages.regression.config import ENDS, PATTERN, SERVING_FILE, RegressionServingConfig, RegressionTask
from stages.regression.examples import RegressionExample
from stages.regression.metrics import RegressionScore, score_values


class RegressionEvaluation(NamedTuple):
    """The score on examples with values, and the predicted values [n]."""

    score: RegressionScore
    predicted: NDArray[np.float64]


class Regressor:
    """Predicts the value of each text."""

    def __init__(
        self,
        task: RegressionTask,
        backbone: Backbone,
        config: BackboneConfig,
        prompt: SoftPrompt | None,
        *,
        head: LinearHead | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.task = task
        self.classifier = ClozeClassifier.of(
            task.ends, PATTERN, backbone, config, prompt, loss_kind="cross_entropy", head=head, engine=engine
        )
        self.backbone, self.prompt, self.head = backbone, prompt, head
        self.max_length = config.max_length

    def items(self, examples: Sequence[RegressionExample]) -> list[LabeledCloze]:
        """Encodes examples with values for training. The soft label of a value is its place between the ends."""
        items = []
        lowest, highest = self.task.range
        for example in examples:
            assert example.value is not None
            share = (example.value - lowest) / (highest - lowest)
            cloze = self.classifier.encode(example.text)
            probabilities = (1 - share, share)
            items.append(LabeledCloze(cloze, int(share >= 0.5), example.text, label_probabilities=probabilities))
        return items

    def predict(self, examples: Sequence[RegressionExample], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns the value of each example, [n], which is in the range of the task."""
        return self._values(self._probabilities(examples, recorder, phase))

    def evaluate(self, examples: Sequence[RegressionExample], recorder: Recorder, phase: str) -> RegressionEvaluation:
        """Predicts examples with values and scores the predictions."""
        predicted_n = self.predict(examples, recorder, phase)
        return RegressionEvaluation(score_values(_values_of(examples), predicted_n, self.task.range), predicted_n)

    def validate(self, examples: Sequence[RegressionExample], recorder: Recorder) -> DevScore:
        """Returns Pearson correlation and mean loss on examples with values, for early stopping."""
        probabilities_nC = self._probabilities(examples, recorder, "dev set")
        right_n = _values_of(examples)
        targets_nC = np.array([item.label_probabilities for item in self.items(examples)])
        losses_n = -(targets_nC * np.log(np.maximum(probabilities_nC, 1e-12))).sum(axis=1)
        score = score_values(right_n, self._values(probabilities_nC), self.task.range)
        return DevScore(score.pearson, float(losses_n.mean()))

    def _probabilities(
        self, examples: Sequence[RegressionExample], recorder: Recorder, phase: str
    ) -> NDArray[np.float64]:
        """Returns the probabilities of the two ends, [n, 2]."""
        return softmax(self.classifier.predict([item.text for item in examples], recorder, phase))

    def _values(self, probabilities_nC: NDArray[np.float64]) -> NDArray[np.float64]:
        values_n: NDArray[np.float64] = probabilities_nC @ np.array(self.task.range, dtype=np.float64)
        return values_n


def _values_of(examples: Sequence[RegressionExample]) -> NDArray[np.float64]:
    return np.array([item.value for item in examples], dtype=np.float64)


def load_regressor(folder: Path) -> Regressor:
    """Loads the prompt that the tuning stage wrote to `folder`, on its backbone.

    Raises:
        InputError: it was trained for another backbone.
    """
    config = RegressionServingConfig.model_validate_json((folder / SERVING_FILE).read_text(encoding="utf-8"))
    backbone, prompt, head = ModelLoader().load_prompt(folder, config.backbone, ENDS)
    return Regressor(config.task, backbone, config.backbone, prompt, head=head)
