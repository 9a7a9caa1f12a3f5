"""Proposed patterns."""

from __future__ import annotations

import pytest

from pipelines.init.patterns import proposed_patterns
from stages.common.patterns.config import Family
from stages.common.patterns.encoding import check_pattern
from stages.common.patterns.syntax import Pattern

FAMILIES: tuple[Family, ...] = ("causal", "masked", "seq2seq")


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize("is_chinese", [False, True])
def test_patterns_fit_the_family_and_the_fields(is_pair: bool, is_chinese: bool) -> None:
    fields = ("text_a", "text_b") if is_pair else ("text",)
    for family in FAMILIES:
        patterns = proposed_patterns(family, is_pair=is_pair, is_chinese=is_chinese)
        assert len(patterns) >= 4
        for name, text in patterns.items():
            pattern = Pattern.parse(name, text)
            check_pattern(pattern, family)
            assert set(pattern.fields) == set(fields)
        assert Pattern.parse("first", next(iter(patterns.values()))).fields == fields


def test_words_follow_the_text_as_the_family_reads_them() -> None:
    causal, masked = (proposed_patterns(family, is_pair=False, is_chinese=False) for family in FAMILIES[:2])
    assert list(causal) == list(masked)
    assert all(text.endswith("{mask}") and not text.endswith(" {mask}") for text in causal.values())
    assert all(text.endswith(" {mask}.") and "\n" not in text for text in masked.values())
    entails = proposed_patterns("masked", is_pair=True, is_chinese=False)["entails"]
    assert entails == '"{text_b|rstrip_punct}"? {mask}. "{text_a}"'


def test_chinese_texts_have_chinese_patterns() -> None:
    patterns = proposed_patterns("causal", is_pair=False, is_chinese=True)
    assert "情感" in patterns["sentiment"] and "about" in patterns["about"]
