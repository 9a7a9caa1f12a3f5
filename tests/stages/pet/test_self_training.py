"""Tests of self-training: pseudo-labels of a teacher, the weights of examples, and a student with adapters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.common.examples import Example, load_examples
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.loader import ModelLoader
from stages.common.training.config import TrainingConfig
from stages.pet import stage as pet
from stages.pet.config import PetConfig, PseudoLabelConfig
from stages.pet.self_training import WeightedPseudoLabels, meta_weights, pseudo_labels
from tests.support.small_models import backbone_config, film_examples, film_task
from tests.support.stage_runs import LABELS, SILENT, logits_of, run

TRAINING = TrainingConfig(learning_rate=0.01, batch_size=4, steps=12, lr_scheduler="constant", weight_decay=0.0)


def teacher(folder: Path, examples: list[Example], fresh: list[float]) -> Path:
    """Files of a sub-model with these logits of the second label."""
    folder.mkdir()
    rows = [
        {"uid": item.uid, "label": None, "logits": {"rotten": 0.0, "fresh": logit}}
        for item, logit in zip(examples, fresh, strict=True)
    ]
    (folder / "unlabeled_logits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_pseudo_labels_are_those_of_the_teacher(tmp_path: Path) -> None:
    unlabeled = [replace(item, label=None) for item in film_examples(3)]
    folder = teacher(tmp_path / "t", unlabeled, [2.0, -1.0, 0.5])
    examples, soft = pseudo_labels(PseudoLabelConfig(generation=1), unlabeled, folder, LABELS, seed=0)
    assert [item.label for item in examples] == ["fresh", "rotten", "fresh"]
    assert soft["film-0"] == pytest.approx((1 / (1 + np.e**2), np.e**2 / (1 + np.e**2)))
    some = PseudoLabelConfig(generation=1, max_examples=2)
    first, again = (pseudo_labels(some, unlabeled, folder, LABELS, seed=1) for _ in range(2))
    assert first == again and len(first.examples) == len(first.soft_labels) == 2


class Linear:
    """A linear model of two weights, whose items are points with targets."""

    def __init__(self) -> None:
        self.weights = torch.nn.Parameter(torch.tensor([0.5, -0.25], dtype=torch.float64))

    def loss(self, points: Any, weights: torch.Tensor | None = None) -> torch.Tensor:
        values = [(torch.tensor(x, dtype=torch.float64), y) for x, y in points]
        own = self.weights if weights is None else weights
        return torch.stack([(x @ own - y) ** 2 for x, y in values]).mean()


def test_meta_weights_are_derivatives_through_a_step_of_gradient_descent() -> None:
    """Compares with Ren et al.: the derivative of the labeled loss after a step, with respect to each weight at 0."""
    model = Linear()
    batch: Any = [((1.0, 2.0), 1.0), ((0.5, -1.0), 2.0), ((2.0, 0.0), -1.0), ((1.0, 1.0), 3.0)]
    labeled: Any = [((1.0, 0.5), 2.0), ((-1.0, 1.0), 0.0)]
    epsilon = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    losses = torch.stack([model.loss([item]) for item in batch])
    (gradient,) = torch.autograd.grad((epsilon * losses).sum(), model.weights, create_graph=True)
    after = model.loss(labeled, model.weights - 0.1 * gradient)
    (derivative,) = torch.autograd.grad(after, epsilon)
    expected = (-derivative).clamp(min=0)
    assert 0 < (expected == 0).sum() < 4, "some examples do not help"
    actual = meta_weights(model.loss, batch, labeled, [model.weights])
    assert actual == pytest.approx((expected / expected.sum() * 4).tolist(), abs=1e-12)


def test_without_a_helpful_example_all_weights_are_0() -> None:
    model = Linear()
    points: Any = [((1.0, 2.0), 1.0)]
    opposite: Any = [((1.0, 2.0), -4.0)]
    assert meta_weights(model.loss, points, opposite, [model.weights]) == [0.0]


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_wrong_pseudo_labels_have_lower_weights(name: str, backbone_folders: dict[str, Path]) -> None:
    """The same texts with right and with wrong labels: their gradients are opposite, so one of both has no weight."""
    backbone = load_backbone(backbone_config(backbone_folders[name]), frozen=False)
    classifier = ClozeClassifier.of(film_task(name), "review", backbone, backbone_config("unused"))
    items = classifier.items(film_examples(4))
    soft = {item.example.uid: tuple(float(label == item.label) for label in range(2)) for item in items}
    swapped = [replace(item, example=replace(item.example, uid=f"wrong-{item.example.uid}")) for item in items]
    soft |= {item.example.uid: tuple(float(label != item.label) for label in range(2)) for item in swapped}
    change = WeightedPseudoLabels(
        PseudoLabelConfig(generation=1, meta_batch_size=4), soft, 2, items, lambda batch, _: batch, classifier.loss,
        backbone.model, list(backbone.model.parameters()),
    )  # fmt: skip
    batch = [*items, *swapped]
    assert [item.weight for item in change(batch, 1)] == [1.0] * 8, "the first steps are uniform"
    backbone.model.train()
    torch.manual_seed(0)
    weights = [item.weight for item in change(batch, 2)]
    assert backbone.model.training
    assert all(weight.grad is None for weight in backbone.model.parameters())
    assert sum(weights) == pytest.approx(8)
    assert sum(weights[:4]) > sum(weights[4:])
    assert all(min(right, wrong) == 0 for right, wrong in zip(weights[:4], weights[4:], strict=True))


def student(folder: Path, name: str, **settings: Any) -> PetConfig:
    values: dict[str, Any] = {
        "task": film_task(name),
        "tune": "adapter",
        "adapter_size": 4,
        "training": TRAINING,
        "student": PseudoLabelConfig(generation=1, meta_start=0.5, finetuning=TRAINING),
    }
    return PetConfig(backbone=backbone_config(folder), pattern="review", seed=1, **(values | settings))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_student_learns_from_its_teacher_and_is_loaded(
    name: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    unlabeled, gold = (load_examples(film_data / f"{part}.jsonl") for part in ("unlabeled", "unlabeled_gold"))
    right = [4.0 if item.label == "fresh" else -4.0 for item in gold]
    inputs = pet.Inputs(data=film_data, teachers=(teacher(tmp_path / "t", unlabeled, right),))
    result = run(pet, student(backbone_folders[name], name), inputs, tmp_path / "out")
    assert (result.num_labeled, result.num_pseudo_labeled) == (8, len(unlabeled))
    assert len(json.loads((tmp_path / "out" / "losses.json").read_text())) == 24
    test = load_examples(film_data / "test.jsonl")
    loaded = ModelLoader().load(tmp_path / "out").predict(test, SILENT, "")
    assert loaded == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_student_follows_soft_labels_without_finetuning(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """A teacher that calls everything fresh teaches that."""
    unlabeled = load_examples(film_data / "unlabeled.jsonl")
    inputs = pet.Inputs(data=film_data, teachers=(teacher(tmp_path / "t", unlabeled, [6.0] * len(unlabeled)),))
    config = student(backbone_folders["bert"], "bert", student=PseudoLabelConfig(generation=1, weights="uniform"))
    run(pet, config, inputs, tmp_path / "out")
    assert (logits_of(tmp_path / "out").argmax(axis=1) == 1).all()


def test_student_composes_with_adapet_and_demonstrations(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    unlabeled, gold = (load_examples(film_data / f"{part}.jsonl") for part in ("unlabeled", "unlabeled_gold"))
    right = [4.0 if item.label == "fresh" else -4.0 for item in gold]
    inputs = pet.Inputs(data=film_data, teachers=(teacher(tmp_path / "t", unlabeled, right),))
    config = student(
        backbone_folders["bert"], "bert", loss="decoupled", label_conditioning={}, num_folds=2,
        demonstrations={"max_length": 24, "num_samples": 2},
    )  # fmt: skip
    result = run(pet, config, inputs, tmp_path / "out")
    assert result.held_out_accuracy is not None
    test = load_examples(film_data / "test.jsonl")
    loaded = ModelLoader().load(tmp_path / "out").predict(test, SILENT, "")
    assert loaded == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
