"""Tests of windows of words and contexts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from stages.common.models.backbones.base import Backbone
from stages.common.seeds import python_rng
from stages.token_level.examples import Question
from stages.token_level.windows import Windows
from tests.support.small_models import FAMILIES
from tests.support.token_level_data import WORDS


@pytest.mark.parametrize("name", FAMILIES)
def test_each_word_is_in_one_window(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    words = tuple(python_rng(1, name).choices(WORDS, k=40))
    windows = Windows(backbone.tokenizer, backbone.family, 16).of_words(words)
    assert len(windows) > 2
    assert [number for window in windows for number in window.words] == list(range(40))
    for window in windows:
        assert len(window.encoded.ids) <= 16
        for number, position in zip(window.words, window.positions, strict=True):
            token = backbone.tokenizer.decode([window.encoded.ids[position]]).strip().removeprefix("##").lower()
            word = words[number].lower()
            assert token
            assert word.endswith(token) if backbone.family == "causal" else word.startswith(token)


def test_long_words_are_truncated_and_words_without_tokens_are_skipped(backbones: dict[str, Backbone]) -> None:
    windows = Windows(backbones["bert"].tokenizer, "masked", 12).of_words(("film", "x" * 50, "\u200b", "plot"))
    assert [window.words for window in windows] == [(0,), (1,), (3,)]
    assert all(len(window.encoded.ids) <= 12 for window in windows)


@pytest.mark.parametrize("name", FAMILIES)
def test_windows_of_a_context_overlap_and_cover_it(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    context = " ".join(python_rng(2, name).choices(WORDS, k=60))
    question = Question("1", "Is it true?", context)
    windows = Windows(backbone.tokenizer, backbone.family, 28).of_question(question, overlap=6)
    assert len(windows) > 2
    covered: set[int] = set()
    for window in windows:
        assert len(window.encoded.ids) <= 28
        start, end = window.characters[0].start, window.characters[-1].end
        covered |= set(range(start, end))
        ids = window.encoded.ids[window.start : window.start + len(window.characters)]
        decoded = backbone.tokenizer.decode(ids).replace(" ", "").replace("##", "").lower()
        assert decoded == context[start:end].replace(" ", "").lower()
    assert {index for index, letter in enumerate(context) if letter != " "} <= covered
    assert len({window.characters for window in windows}) == len(windows)
    shared = [set(one.characters) & set(other.characters) for one, other in pairwise(windows)]
    assert [len(item) for item in shared] == [6] * (len(windows) - 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_token_for_no_answer_has_read_the_entire_window(name: str, backbones: dict[str, Backbone]) -> None:
    """Its hidden state depends on the last token of the context, and it is no token of the context."""
    backbone = backbones[name]
    windows = Windows(backbone.tokenizer, backbone.family, 28)
    (first,), (other,) = (
        windows.of_question(Question("1", "Is it true?", f"The plot was {word}"), overlap=6) for word in ("dull", "bad")
    )
    assert not first.start <= first.no_answer < first.start + len(first.characters)
    with torch.no_grad():
        one, two = (
            backbone.hidden_states(backbone.batch([window.encoded]))[0, window.no_answer] for window in (first, other)
        )
    assert (one - two).abs().max() > 1e-3
