"""Estimated lengths of texts, and the maximum lengths that follow."""

from __future__ import annotations

import pytest

from pipelines.init.text_lengths import estimate_tokens, measure_lengths


def test_tokens_are_four_letters_or_one_chinese_character() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("four letters") == 3
    assert estimate_tokens("这部电影好看") == 6
    assert estimate_tokens("这部电影 good") == 4 + 2


@pytest.mark.parametrize(
    ("letters", "expected"), [(4, 32), (4 * 20, 32), (4 * 21, 40), (4 * 41, 64), (4 * 100, 152), (4 * 5000, 256)]
)
def test_max_length_covers_the_texts_within_bounds(letters: int, expected: int) -> None:
    assert measure_lengths(["a" * letters] * 10).max_length == expected


def test_few_long_texts_do_not_count() -> None:
    lengths = measure_lengths([*["a" * 160] * 97, *["a" * 4000] * 3])
    assert lengths.covering == 40
    assert lengths.mean == pytest.approx((40 * 97 + 1000 * 3) / 100)
    assert lengths.max_length == 64


@pytest.mark.parametrize(
    ("texts", "analyzer"),
    [
        (["A warm and clever story."], "word"),
        (["这部电影很好看，我非常喜欢它的故事"], "char"),
        (["好看"], "char"),
        (["ภาพยนตร์เรื่องนี้สนุกมากและฉันชอบ"], "char"),
        (["Donaudampfschifffahrtsgesellschaft ist ein Wort"], "word"),
        (["A warm and clever story.", "https://example.org/a/very/long/address"], "word"),
    ],
)
def test_tfidf_counts_characters_of_texts_without_spaces(texts: list[str], analyzer: str) -> None:
    assert measure_lengths(texts).analyzer == analyzer
