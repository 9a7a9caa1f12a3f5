"""Default patterns and label words."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

from pipelines.init import patterns


@pytest.mark.parametrize(
    ("labels", "column", "kind"),
    [
        (("pos", "neg"), "label", "sentiment"),
        (("Positive", "NEGATIVE", "neutral"), "label", "sentiment"),
        (("1", "2", "5"), "stars", "rating"),
        (("1", "2", "5"), "label", "topic"),
        (("good", "billing"), "label", "topic"),
    ],
)
def test_kind_of_labels_is_inferred(labels: tuple[str, ...], column: str, kind: str) -> None:
    assert patterns.kind_of(labels, column, is_pair=False) == kind
    assert patterns.kind_of(labels, column, is_pair=True) == "pair"


def test_patterns_fit_the_family() -> None:
    kinds: tuple[patterns.Kind, ...] = ("topic", "sentiment", "rating", "pair")
    for kind in kinds:
        causal, masked = (patterns.default_patterns(kind, family) for family in ("causal", "masked"))
        assert list(causal) == list(masked) and len(causal) == 3
        assert all(text.endswith("{mask}") and not text.endswith(" {mask}") for text in causal.values())
        assert all(text.endswith(" {mask}.") and "\n" not in text for text in masked.values())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("Billing", "BUG"), {"Billing": ["billing"], "BUG": ["bug"]}),
        (("Text/Topic", "bug_case"), {"Text/Topic": ["text", "topic"], "bug_case": ["bug", "case"]}),
        (("about.bug", "about.crash"), {"about.bug": ["bug"], "about.crash": ["crash"]}),
        (("the bug", "crashOfParcel"), {"the bug": ["bug"], "crashOfParcel": ["crash", "parcel"]}),
        (("pos", "neg"), {"pos": ["positive"], "neg": ["negative"]}),
        (("wifi", "0"), {"wifi": ["wifi"], "0": []}),
        (("bug", "c1"), {"bug": ["bug"], "c1": []}),
        (("映画", "bug"), {"映画": [], "bug": ["bug"]}),
    ],
)
def test_label_words_are_derived_from_label_names(
    backbone: str, labels: tuple[str, ...], expected: dict[str, Any]
) -> None:
    tokenizer = Tokenizer.from_file(f"{backbone}/tokenizer.json")
    assert patterns.label_words(labels, "topic", tokenizer, "masked") == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [("bug", True), ("2nd card", True), ("Sci/Tech", True), ("映画", True), ("7", False), ("c1", False), ("A", False)],
)
def test_labels_without_a_word_in_their_name_are_recognized(label: str, expected: bool) -> None:
    assert patterns.has_word(label) is expected
