"""New texts that differ from known ones are noticed, and similar ones are not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipelines.init.language import name_language
from pipelines.serving.drift import MAX_CHARACTERS, TextProfile, differences

ENGLISH = [f"the film number {n} was not what we had hoped for" for n in range(30)]
KNOWN = TextProfile.of(ENGLISH, [0.9] * 30, name_language)


@pytest.mark.parametrize(
    ("texts", "confidence", "expected"),
    [
        (ENGLISH, 0.85, []),
        (ENGLISH[:5], 0.1, []),
        (
            [f"这部电影第{n}次看还是非常好看，大家都应该去看一看" for n in range(30)],
            0.9,
            ["They are in Chinese, not in English."],
        ),
        ([f"der Film {n} ist nicht das, was wir uns von ihm" for n in range(30)], 0.9, ["another language"]),
        ([" ".join(ENGLISH[:5])] * 30, 0.9, ["more than 2"]),
        (["good film"] * 30, 0.9, ["more than 9 characters"]),
        (ENGLISH, 0.6, ["a mean probability of 60%, not 90%"]),
    ],
)
def test_differences_are_noticed(texts: Sequence[str], confidence: float, expected: list[str]) -> None:
    found = differences(KNOWN, TextProfile.of(texts, [confidence] * len(texts), name_language))
    assert len(found) == len(expected)
    assert all(part in sentence for part, sentence in zip(expected, found, strict=True))


def test_only_the_first_characters_count() -> None:
    longer = [f"{text} {'a very long story ' * 400}" for text in ENGLISH]
    profile, longest = (
        TextProfile.of(texts, [0.9] * len(texts), name_language) for texts in (longer, [text * 9 for text in longer])
    )
    assert profile.length == longest.length == MAX_CHARACTERS
    assert differences(profile, longest) == []
