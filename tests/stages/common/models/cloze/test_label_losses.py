"""Tests of the losses over label scores, each against an independent computation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stages.common.losses import log_one_minus_exp
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.label_losses import LOSSES, hinge_losses, label_losses
from tests.support.small_models import backbone_config, film_examples, film_task


def test_hinge_loss_counts_labels_within_the_margin() -> None:
    losses = hinge_losses(torch.tensor([[-1.0, -1.5, -4.0], [-3.0, -2.0, -2.5]]))
    # first: label 0 is right, so max(0, 1 + 1 - 1.5) + max(0, 1 + 1 - 4); second: label 2 is right
    assert float(losses[0, 0]) == pytest.approx(0.5)
    assert float(losses[1, 2]) == pytest.approx((1 + 2.5 - 3.0) + (1 + 2.5 - 2.0))
    assert float(hinge_losses(torch.tensor([[0.0, -1.0]]))[0, 0]) == 0.0


def test_label_loss_is_cross_entropy_over_labels() -> None:
    losses = label_losses(torch.tensor([[2.0, 0.0], [1.0, 3.0]]))
    assert losses[:, 0].tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))], abs=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_is_that_of_finite_differences(kind: str) -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 4, dtype=torch.float64).log_softmax(dim=1) - 0.1
    assert torch.autograd.gradcheck(LOSSES[kind], scores.requires_grad_())  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_one_minus_exp_is_precise_and_finite(dtype: torch.dtype) -> None:
    log_p = torch.tensor([-80.0, -20.0, -1.0, -0.5, -1e-3, 0.0], dtype=dtype, requires_grad=True)
    actual = log_one_minus_exp(log_p)
    for value, result in zip(log_p.tolist()[:-1], actual.tolist(), strict=False):
        assert result == pytest.approx(math.log1p(-math.exp(value)) if value < -1 else math.log(-math.expm1(value)))
    assert float(actual[-1].detach()) == pytest.approx(math.log(torch.finfo(dtype).eps), rel=1e-3)
    actual.sum().backward()
    assert log_p.grad is not None and torch.isfinite(log_p.grad).all()


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_decoupled_loss_is_a_binary_cross_entropy_per_label(name: str, backbones: dict[str, Backbone]) -> None:
    """Compares with probabilities from the softmax over all words, one text at a time, as in ADAPET."""
    backbone = backbones[name]
    words = {"rotten": ["bad"], "fresh": ["great"]}
    task = film_task(name).model_copy(update={"verbalizer": words})
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config("unused"), loss_kind="decoupled")
    items = classifier.items(film_examples(5))
    losses = []
    with torch.inference_mode():
        actual = float(classifier.loss(items))
        for item in items:
            probability_1V = backbone.vocabulary_logits(backbone.batch(item.cloze)).softmax(dim=1)
            for number, [(token,)] in enumerate(classifier.verbalizer.words):
                target = torch.tensor(float(number == item.label))
                losses.append(F.binary_cross_entropy(probability_1V[0, token], target))
    assert len(losses) == 10
    assert actual == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_decoupled_loss_of_long_words_is_of_their_likelihood(name: str, backbones: dict[str, Backbone]) -> None:
    task = film_task(name).model_copy(update={"verbalizer": {"rotten": ["very bad"], "fresh": ["good and fine"]}})
    classifier = ClozeClassifier.of(task, "review", backbones[name], backbone_config("unused"), loss_kind="decoupled")
    items = classifier.items(film_examples(4))
    with torch.inference_mode():
        probabilities = classifier.logits([item.cloze for item in items], training=True).exp()
        targets = F.one_hot(torch.tensor([item.label for item in items]), 2).float()
        assert float(classifier.loss(items)) == pytest.approx(
            float(F.binary_cross_entropy(probabilities, targets)), rel=1e-4
        )
