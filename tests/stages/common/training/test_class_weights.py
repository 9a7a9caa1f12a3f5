"""Tests of the weights of labels, and that rare labels are found with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from stages.baseline.stage import GoldTargets
from stages.common.config import ClassWeights
from stages.common.examples import Example
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.protocols import NullRecorder
from stages.common.training.class_weights import label_weights
from stages.distillation.config import SelectionConfig
from stages.distillation.examples import DistillationExample, fit_targets


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    gold = np.array([0] * 90 + [1] * 9 + [2])
    weights = label_weights(gold.tolist(), 3, "balanced")
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=gold))
    assert weights[gold].mean() == pytest.approx(1)
    assert label_weights(gold.tolist(), 3, "none").tolist() == [1, 1, 1]


def test_a_label_without_examples_has_no_effect() -> None:
    assert label_weights([0, 0, 2], 3, "balanced") == pytest.approx([0.75, 1, 1.5])


def few(label: str, number: int) -> Example:
    word = "refund" if label == "rare" and number % 2 else "hello"
    return Example(f"{label}-{number}", {"text": f"{word} order {number}"}, label)


@pytest.mark.parametrize(("kind", "recall"), [("none", 0.0), ("balanced", 0.5)])
def test_weights_find_a_label_of_one_percent(kind: ClassWeights, recall: float) -> None:
    """Half of the rare texts say what they are."""
    labels = ("common", "rare")
    examples = [*(few("common", n) for n in range(990)), *(few("rare", n) for n in range(10))]
    gold = [labels.index(item.label or "") for item in examples]
    classifier = TfidfClassifier(labels, ("text",), "word", regularization_c=0.1)
    classifier.fit(examples, weights=label_weights(gold, 2, kind)[gold])
    predicted = classifier.predict([few("rare", n) for n in range(100, 120)], NullRecorder(), "").argmax(axis=1)
    assert predicted.mean() == pytest.approx(recall, abs=0.01)


def test_the_loss_of_labeled_examples_is_weighted() -> None:
    items = [Example(str(n), {"text": "x"}, "b" if n == 0 else "a") for n in range(4)]
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0, 0, 0]), reduction="none")
    plain, balanced = (GoldTargets(items, ("a", "b"), kind).loss(logits, items) for kind in ("none", "balanced"))
    assert plain == pytest.approx(losses.mean())
    assert balanced == pytest.approx((losses[0] + losses[1]) / 2), "each label counts half"
    weights = GoldTargets(items, ("a", "b"), "balanced").head_targets().weights
    assert weights is not None and weights.tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])


def test_labeled_examples_of_a_student_keep_their_share() -> None:
    example = Example("x", {"text": "x"})
    items = [DistillationExample(example, (0.0, 1.0))] * 6
    items += [DistillationExample(example, (0.0, 0.0), gold) for gold in (0, 0, 0, 1)]
    config = SelectionConfig(labels=("a", "b"), fields=("text",), gold_weight=0.4, class_weights="balanced")
    _, weights = fit_targets(items, config)
    assert weights[:6].sum() == pytest.approx(6) and weights[6:].sum() == pytest.approx(4)
    assert weights[6:9].sum() == pytest.approx(weights[9])
