"""Tests of seq2seq backbones: log-likelihoods of words that the decoder writes."""

from __future__ import annotations

import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.label_word_scores import word_scores
from tests.support.label_words import MIXED, encode, ids


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
