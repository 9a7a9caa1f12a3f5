"""Tests of causal backbones: log-likelihoods of words and of the text after them."""

from __future__ import annotations

import pytest
import torch

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.label_word_scores import Word, word_scores
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import word_tokens

TEXTS = ("A dull plot.", "The film is a warm and clever story about two sisters.", "It drags.")
MIXED = ("good", "badly", "terribly", "goodish")
"""Words with one token and with several tokens in every vocabulary of the tests."""


def encode(backbone: Backbone, pattern: str) -> list[Encoded]:
    encoder = Encoder(Pattern.parse("p", pattern), backbone.tokenizer, backbone.family, 64, num_reserved=8)
    return [encoder(Example(text, {"text": text})) for text in TEXTS]


def ids(backbone: Backbone, words: tuple[str, ...]) -> list[Word]:
    actual = [tuple(word_tokens(word, backbone.tokenizer)) for word in words]
    return [word[1:] if backbone.family == "seq2seq" and word[0] == T5_SPACE else word for word in actual]


T5_SPACE = 3


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
