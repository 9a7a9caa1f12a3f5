"""Default patterns and label words."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from pipelines.init import recipe_writer

Clozeline = Callable[..., subprocess.CompletedProcess[str]]


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
    assert recipe_writer.kind_of(labels, column) == kind


def test_patterns_fit_the_family() -> None:
    for kind in ("topic", "sentiment", "rating"):
        causal, masked = (recipe_writer.default_patterns(kind, family) for family in ("causal", "masked"))
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
        (("映画", "bug"), {"映画": [], "bug": ["bug"]}),
    ],
)
def test_label_words_are_derived_from_label_names(
    backbone: str, labels: tuple[str, ...], expected: dict[str, Any]
) -> None:
    tokenizer = Tokenizer.from_file(f"{backbone}/tokenizer.json")
    assert recipe_writer.label_words(labels, "topic", tokenizer, "masked") == expected
