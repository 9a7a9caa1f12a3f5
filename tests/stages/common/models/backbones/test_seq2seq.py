"""Tests of seq2seq backbones: log-likelihoods of words that the decoder writes."""

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


def test_seq2seq_scores_the_word_after_the_sentinel(backbones: dict[str, Backbone]) -> None:
    t5 = backbones["t5"]
    encoded, words = encode(t5, "{text} It was {mask}."), ids(t5, MIXED)
    sentinel = t5.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    with torch.inference_mode():
        actual = word_scores(t5, encoded, words, likelihood=True)
        for row, item in enumerate(encoded):
            for column, word in enumerate(words):
                decoder = torch.tensor([[0, sentinel, *word]])
                logits = t5.model(input_ids=torch.tensor([item.ids]), decoder_input_ids=decoder).logits[0]
                log_TV = logits.log_softmax(dim=1)
                expected = sum(float(log_TV[1 + at, token]) for at, token in enumerate(word))
                assert float(actual[row, column]) == pytest.approx(expected, abs=2e-3, rel=1e-4)
