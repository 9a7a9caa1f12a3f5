"""Spellings of one label."""

from __future__ import annotations

import pytest

from pipelines.init.spellings import spelling_key, spelling_variants


@pytest.mark.parametrize(
    "labels",
    [
        ("Spam", "spam", "SPAM"),
        ("1", "1.0", "01"),
        ("card_lost", "Card lost", "card-lost"),
        ("-1", "-1.00"),
        ("ａ", "a"),
    ],
)
def test_spellings_of_one_label_have_one_key(labels: tuple[str, ...]) -> None:
    assert len({spelling_key(label) for label in labels}) == 1


@pytest.mark.parametrize(
    "labels", [("1", "-1"), ("C", "C++", "C#"), ("1.0", "1.5"), ("-", "_"), ("ham", "spam"), ("1e0", "1")]
)
def test_different_labels_have_different_keys(labels: tuple[str, ...]) -> None:
    assert len({spelling_key(label) for label in labels}) == len(labels)


def test_most_frequent_spelling_is_first() -> None:
    counts = {"ham": 62, "spam": 16, "Spam": 20, "0": 1}
    assert spelling_variants(counts) == {"spam": ["Spam", "spam"]}
