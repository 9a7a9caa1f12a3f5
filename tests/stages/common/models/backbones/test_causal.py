"""Tests of causal backbones: log-likelihoods of words and of the text after them."""

from __future__ import annotations

import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.label_word_scores import word_scores
from tests.support.label_words import MIXED, encode, ids


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("pattern", ["{text} It was{mask}", "{text} It was{mask}. The film", "{mask} News: {text}"])
def test_causal_scores_equal_those_of_the_filled_text(name: str, pattern: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    encoded, words = encode(backbone, pattern), ids(backbone, MIXED)
    with torch.inference_mode():
        actual = word_scores(backbone, encoded, words, likelihood=True)
        for row, item in enumerate(encoded):
            for column, word in enumerate(words):
                full = [*item.ids, *word, *item.suffix]
                log_LV = backbone.model(input_ids=torch.tensor([full])).logits[0].log_softmax(dim=1)
                positions = range(len(item.ids), len(full))
                expected = sum(float(log_LV[position - 1, full[position]]) for position in positions)
                assert float(actual[row, column]) == pytest.approx(expected, abs=2e-3, rel=1e-4)
