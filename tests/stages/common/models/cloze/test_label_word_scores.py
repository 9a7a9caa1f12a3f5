"""Tests of scores of label words and labels, compared with plain passes over one text."""

from __future__ import annotations

import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.cloze.label_losses import hinge_losses
from stages.common.models.cloze.label_word_scores import label_scores, word_scores
from stages.common.patterns.config import LabelScore
from stages.common.patterns.verbalizers import Verbalizer
from tests.support.label_words import MIXED, encode, ids
from tests.support.small_models import FAMILIES, film_task

WORDS = (((4,), (9,)), ((2,),), ((1,), (3,), (5,)))
LOGITS_BW = torch.tensor([[1.0, 3.0, -2.0, 0.0, 1.0, 5.0], [0.5, -0.5, 7.0, 3.0, 3.0, 3.0]])


@pytest.mark.parametrize("score", ["mean_logit", "log_likelihood"])
def test_label_score_is_the_mean_of_its_words(score: LabelScore) -> None:
    verbalizer = Verbalizer(("a", "b", "c"), WORDS, score)
    assert verbalizer.flat == ((4,), (9,), (2,), (1,), (3,), (5,))
    assert label_scores(verbalizer, LOGITS_BW).tolist() == [[2.0, -2.0, 2.0], [0.0, 7.0, 3.0]]
    assert verbalizer.needs_likelihood is (score == "log_likelihood")


def test_sum_probability_adds_probabilities() -> None:
    verbalizer = Verbalizer(("a", "b", "c"), WORDS, "sum_probability")
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.05, 0.05, 0.1]])
    actual = label_scores(verbalizer, probabilities.log())
    torch.testing.assert_close(actual, torch.tensor([[0.3, 0.3, 0.2]]).log())
    assert verbalizer.needs_likelihood


SINGLE = ("good", "bad", "great")


@pytest.mark.parametrize("name", FAMILIES)
def test_log_likelihoods_normalize_over_the_vocabulary(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encoded = encode(backbone, film_task(name).patterns["review"])
    words = ids(backbone, SINGLE)
    with torch.inference_mode():
        actual = word_scores(backbone, encoded, words, likelihood=True)
        raw = word_scores(backbone, encoded, words, likelihood=False)
        full = backbone.vocabulary_logits(backbone.batch(encoded))
    torch.testing.assert_close(actual, raw - full.logsumexp(dim=1, keepdim=True), atol=1e-4, rtol=0)
    torch.testing.assert_close(raw, full[:, [word[0] for word in words]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_flow_through_words_of_several_tokens(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    prompt = torch.zeros(3, 32, requires_grad=True)
    encoded = encode(backbone, film_task(name).patterns["review"])
    scores = word_scores(
        backbone, encoded, ids(backbone, MIXED), likelihood=True, prompt=SoftInput(before=prompt), training=True
    )
    hinge_losses(scores).diagonal().sum().backward()
    assert (prompt.grad.abs().sum(dim=1) > 0).all()
