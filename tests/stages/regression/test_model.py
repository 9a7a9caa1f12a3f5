"""Tests of the model of regression: what it learns from, and what it predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.metrics.classification import softmax
from stages.common.models.backbones.loader import load_backbone
from stages.regression.examples import RegressionExample
from stages.regression.model import Regressor
from tests.support.regression_data import reviews, stars_task
from tests.support.small_models import FAMILIES, backbone_config
from tests.support.stage_runs import SILENT


@pytest.mark.parametrize("name", FAMILIES)
def test_values_interpolate_the_probabilities_of_the_two_words(name: str, backbone_folders: dict[str, Path]) -> None:
    config = backbone_config(backbone_folders[name])
    model = Regressor(stars_task(name), load_backbone(config, frozen=True), config, None)
    examples = reviews(6, 0)
    shares = softmax(model.classifier.predict([item.text for item in examples], SILENT, ""))[:, 1]
    assert model.predict(examples, SILENT, "") == pytest.approx(1 + 4 * shares)


def test_the_loss_is_the_kl_divergence_but_for_a_constant(backbone_folders: dict[str, Path]) -> None:
    config = backbone_config(backbone_folders["bert"])
    model = Regressor(stars_task("bert"), load_backbone(config, frozen=True), config, None)
    example = RegressionExample("one", {"text": "good dull"}, 2.0)
    (item,) = model.items([example])
    assert item.label_probabilities == (0.75, 0.25)
    predicted = softmax(model.classifier.predict([example.text], SILENT, ""))[0]
    target = np.array([0.75, 0.25])
    divergence, entropy = (target * np.log(target / predicted)).sum(), -(target * np.log(target)).sum()
    with torch.inference_mode():
        assert float(model.classifier.loss([item])) == pytest.approx(divergence + entropy, abs=1e-5)
    assert model.validate([example, *reviews(3, 1)], SILENT).loss > 0
