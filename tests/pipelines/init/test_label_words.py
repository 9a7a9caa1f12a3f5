"""Label words from the names of labels."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

from pipelines.init import label_words


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("Billing", "BUG"), {"Billing": ["billing"], "BUG": ["bug"]}),
        (("Text/Topic", "bug_case"), {"Text/Topic": ["text", "topic"], "bug_case": ["bug", "case"]}),
        (("about.bug", "about.crash"), {"about.bug": ["bug"], "about.crash": ["crash"]}),
        (("the bug", "crashOfParcel"), {"the bug": ["bug"], "crashOfParcel": ["crash", "parcel"]}),
        (("case.bug", "case.crash", "case"), {"case.bug": ["bug"], "case.crash": ["crash"], "case": ["case"]}),
        (("case/bug", "BUGCase/crash"), {"case/bug": ["case bug"], "BUGCase/crash": ["crash"]}),
        (("wifi", "0"), {"wifi": ["wifi"], "0": []}),
        (("bug", "c1"), {"bug": ["bug"], "c1": []}),
        (("映画", "bug"), {"映画": [], "bug": ["bug"]}),
    ],
)
def test_label_words_are_derived_from_label_words(
    backbone: str, labels: tuple[str, ...], expected: dict[str, Any]
) -> None:
    tokenizer = Tokenizer.from_file(f"{backbone}/tokenizer.json")
    assert label_words.words_of_names(labels, tokenizer, "masked") == expected


def test_words_of_descriptions_are_those_that_no_other_has(backbone: str) -> None:
    tokenizer = Tokenizer.from_file(f"{backbone}/tokenizer.json")
    descriptions = {"0": "Opinion of the invoice: case, billing", "1": "a crash, or any bug of this case", "2": "zzz"}
    names = {"0": [], "1": [], "2": [], "parcel": ["parcel"]}
    assert label_words.words_of_descriptions(descriptions, names, tokenizer, "masked") == {
        "0": ["opinion", "invoice", "billing"], "1": ["crash", "bug"], "2": [], "parcel": ["parcel"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "expected"),
    [("bug", True), ("2nd card", True), ("Sci/Tech", True), ("映画", True), ("7", False), ("c1", False), ("A", False)],
)
def test_labels_without_a_word_in_their_name_are_recognized(label: str, expected: bool) -> None:
    assert label_words.has_word(label) is expected
