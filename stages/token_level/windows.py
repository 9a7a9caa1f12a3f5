"""Splits texts into windows that a backbone can read, and maps tokens back to words and characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.common.patterns.config import Family
from stages.common.patterns.encoding import Encoded, SpecialTokens
from stages.token_level.examples import Question


@dataclass(frozen=True, slots=True)
class WordWindow:
    """A stretch of a text. words: numbers of its words; places: for each the index in `encoded.ids` of the token whose
    state stands for it: the first one, or for a causal model the last, which has read the whole word.
    """

    encoded: Encoded
    words: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """A question with a stretch of its context. start: index in `encoded.ids` of the first token of the context;
    characters: for each of its tokens where it begins and ends in the context.
    """

    encoded: Encoded
    start: int
    characters: tuple[tuple[int, int], ...]


class Windows:
    """Cuts texts into windows of `max_length` tokens, for one tokenizer and family of backbones."""

    def __init__(self, tokenizer: Any, family: Family, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.family = family
        self.max_length = max_length
        self.specials = SpecialTokens.of(tokenizer)

    def of_words(self, words: tuple[str, ...]) -> list[WordWindow]:
        """Windows without overlap; every word that has a token at all stands in one of them."""
        spans = list(self._tokens_of(words))
        ids = self._encode(" ".join(words))["input_ids"]
        after = () if self.family == "causal" else self.specials.after_single
        before = self.specials.before
        room = max(1, self.max_length - len(before) - len(after))
        windows = []
        rest = [(number, first, last) for number, (first, last) in spans]
        while rest:
            offset = rest[0][1]
            here = [item for item in rest if item[2] < offset + room] or rest[:1]
            rest = rest[len(here) :]
            stretch = tuple(ids[offset : min(here[-1][2] + 1, offset + room)])
            last_token = len(stretch) - 1
            tokens = [min((last if self.family == "causal" else first) - offset, last_token) for _, first, last in here]
            windows.append(
                WordWindow(
                    _encoded(((before, 0), (stretch, 0), (after, 0))),
                    tuple(number for number, _, _ in here),
                    tuple(len(before) + token for token in tokens),
                )
            )
        return windows

    def of_question(self, item: Question, overlap: int) -> list[ContextWindow]:
        """Windows that share `overlap` tokens of the context, half of them at most; a question longer than half of
        `max_length` is cut.
        """
        question = self._encode(item.question)["input_ids"]
        context = self._encode(item.context)
        specials = self.specials
        between: tuple[int, ...] = specials.between
        after = specials.after
        if self.family == "causal":
            between, after = tuple(self._encode("\n")["input_ids"]), ()
        question = question[: self.max_length // 2]
        head = len(specials.before) + len(question) + len(between)
        room = max(1, self.max_length - head - len(after))
        step = room - min(overlap, room // 2)
        ids, characters = context["input_ids"], context["offset_mapping"]
        windows = []
        for first in range(0, max(1, len(ids)), step):
            stretch = tuple(ids[first : first + room])
            second = specials.second_segment
            parts = ((specials.before, 0), (question, 0), (between, 0), (stretch, second), (after, second))
            places = tuple((begin, end) for begin, end in characters[first : first + room])
            windows.append(ContextWindow(_encoded(parts), head, places))
            if first + room >= len(ids):
                break
        return windows

    def _encode(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

    def _tokens_of(self, words: tuple[str, ...]) -> Iterator[tuple[int, tuple[int, int]]]:
        """Number, first and last token of each word; words without a token are passed over."""
        encoding = self._encode(" ".join(words))
        begin = 0
        for number, word in enumerate(words):
            found = [encoding.char_to_token(place) for place in range(begin, begin + len(word))]
            tokens = [token for token in found if token is not None]
            if tokens:
                yield number, (tokens[0], tokens[-1])
            begin += len(word) + 1


def _encoded(parts: tuple[tuple[tuple[int, ...] | list[int], int], ...]) -> Encoded:
    """Stretches of ids, each with its segment, one behind the other."""
    ids = tuple(number for stretch, _ in parts for number in stretch)
    segments = tuple(segment for stretch, segment in parts for _ in stretch)
    return Encoded(ids, segments, 0)  # the mask's place tells where the text begins in a padded batch
