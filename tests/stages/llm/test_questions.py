"""Tests of the labels that answers name."""

from __future__ import annotations

import pytest

from stages.llm.messages import num_tokens
from stages.llm.questions import find_label

LABELS = ("sports", "motor sports", "spam", "not spam", "C", "C++", "体育", "体育新闻")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("sports", "sports"),
        (" Sports.\n", "sports"),
        ('The label is "motor_sports".', "motor sports"),
        ("**Not spam**", "not spam"),
        ("c++", "C++"),
        ("C", "C"),
        ("体育新闻。", "体育新闻"),
        ("体育", "体育"),
        ("sports, or spam", None),
        ("sportswear", None),
        ("", None),
        ("I do not know.", None),
    ],
)
def test_label_of_an_answer(answer: str, label: str | None) -> None:
    index = find_label(answer, LABELS)
    assert (None if index is None else LABELS[index]) == label


def test_tokens_are_estimated_from_characters() -> None:
    assert num_tokens([{"role": "user", "content": "x" * 400}]) == 104
