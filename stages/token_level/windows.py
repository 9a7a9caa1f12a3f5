"""Splits texts into windows that a backbone can read, and maps tokens back to words and characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stages.common.patterns.config import Family
from stages.common.patterns.encoding import Encoded, SpecialTokens
from stages.common.plain_text import PlainText
from stages.token_level.examples import Question


@dataclass(frozen=True, slots=True)
class WordWindow:
    """A part of a tagged text."""

    encoded: Encoded
    words: tuple[int, ...]
    """Numbers of its words in the text."""
    positions: tuple[int, ...]
    """For each word the index in `encoded.ids` of the token whose hidden state represents it: the first token, or for a
    causal model the last one, which has read the entire word.
    """


class CharSpan(NamedTuple):
    """The characters of a token in the context, without `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """A question with a part of its context."""

    encoded: Encoded
    start: int
    """Index in `encoded.ids` of the first token of the context."""
    characters: tuple[CharSpan, ...]
    """The characters of each token of the context."""
    no_answer: int
    """Index in `encoded.ids` of the token that represents: no answer in this window. It has read the entire window."""


class WordTokens(NamedTuple):
    """A word that has tokens: its number, its first and its last token."""

    number: int
    first: int
    last: int


class Segment(NamedTuple):
    """Token ids with one token type."""

    ids: Sequence[int]
    token_type: int


class Windows:
    """Splits texts into windows of `max_length` tokens, for one tokenizer and family of backbones."""

    def __init__(self, tokenizer: Any, family: Family, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.family = family
        self.max_length = max_length
        self.specials = SpecialTokens.of(tokenizer)
        self._plain = PlainText(tokenizer)

    def of_words(self, words: tuple[str, ...]) -> list[WordWindow]:
        """Returns windows without overlap. Every word that has tokens is in one of them."""
        ids = self._encode(" ".join(words))["input_ids"]
        before = self.specials.before
        after = () if self.family == "causal" else self.specials.after_single
        size = max(1, self.max_length - len(before) - len(after))
        windows = []
        rest = list(self._tokens_of(words))
        while rest:
            offset = rest[0].first
            fitting = [word for word in rest if word.last < offset + size] or rest[:1]
            rest = rest[len(fitting) :]
            window_ids = tuple(ids[offset : min(fitting[-1].last + 1, offset + size)])
            tokens = [(word.last if self.family == "causal" else word.first) - offset for word in fitting]
            windows.append(
                WordWindow(
                    _encoded(Segment(before, 0), Segment(window_ids, 0), Segment(after, 0)),
                    tuple(word.number for word in fitting),
                    tuple(len(before) + min(token, len(window_ids) - 1) for token in tokens),
                )
            )
        return windows

    def of_question(self, item: Question, overlap: int) -> list[ContextWindow]:
        """Returns windows that share `overlap` tokens of the context, at most half of them. A question longer than half
        of `max_length` is truncated.

        The first token represents "no answer", as in BERT. A causal model has read nothing there: it gets a token after
        the context instead.
        """
        question = self._encode(item.question)["input_ids"][: self.max_length // 2]
        context = self._encode(item.context)
        specials, between, after = self.specials, self.specials.between, self.specials.after
        if self.family == "causal":
            between = tuple(self._encode("\n")["input_ids"])
            after = between[-1:]
        start = len(specials.before) + len(question) + len(between)
        size = max(1, self.max_length - start - len(after))
        step = size - min(overlap, size // 2)
        ids, offsets = context["input_ids"], context["offset_mapping"]
        second = specials.second_segment
        windows = []
        for first in range(0, max(1, len(ids)), step):
            encoded = _encoded(
                Segment(specials.before, 0),
                Segment(question, 0),
                Segment(between, 0),
                Segment(ids[first : first + size], second),
                Segment(after, second),
            )
            characters = tuple(CharSpan(*offset) for offset in offsets[first : first + size])
            no_answer = len(encoded.ids) - 1 if self.family == "causal" else 0
            windows.append(ContextWindow(encoded, start, characters, no_answer))
            if first + size >= len(ids):
                break
        return windows

    def _encode(self, text: str) -> Any:
        return self.tokenizer(self._plain(text), add_special_tokens=False, return_offsets_mapping=True)

    def _tokens_of(self, words: tuple[str, ...]) -> Iterator[WordTokens]:
        """Yields the words in order; skips words without tokens."""
        encoding = self._encode(" ".join(words))
        start = 0
        for number, word in enumerate(words):
            of_characters = [encoding.char_to_token(index) for index in range(start, start + len(word))]
            tokens = [token for token in of_characters if token is not None]
            if tokens:
                yield WordTokens(number, tokens[0], tokens[-1])
            start += len(word) + 1


def _encoded(*segments: Segment) -> Encoded:
    ids = tuple(token for segment in segments for token in segment.ids)
    token_types = tuple(segment.token_type for segment in segments for _ in segment.ids)
    return Encoded(ids, token_types, 0)  # mask position 0: in a padded batch it shows where the text starts
