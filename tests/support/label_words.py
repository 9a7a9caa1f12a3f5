"""Texts and label words of tests that compare scores of words with plain passes over one text."""

from __future__ import annotations

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.patterns.syntax import Pattern
from stages.common.patterns.verbalizers import Word, word_tokens

TEXTS = ("A dull plot.", "The film is a warm and clever story about two sisters.", "It drags.")
MIXED = ("good", "badly", "terribly", "goodish")
"""Words with one token and with several tokens in every vocabulary of the tests."""


def encode(backbone: Backbone, pattern: str) -> list[Encoded]:
    """Returns `TEXTS` under a pattern."""
    encoder = Encoder(Pattern.parse("p", pattern), backbone.tokenizer, backbone.family, 64, num_reserved=8)
    return [encoder(Example(text, {"text": text})) for text in TEXTS]


def ids(backbone: Backbone, words: tuple[str, ...]) -> list[Word]:
    """Returns the token ids of words."""
    return [tuple(word_tokens(word, backbone.tokenizer)) for word in words]
