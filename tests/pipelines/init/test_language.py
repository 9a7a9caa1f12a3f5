"""Detection of English texts, and of Chinese ones."""

from __future__ import annotations

import pytest

from pipelines.init.language import detect_language, is_chinese


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the fastest way to get my card?", "english"),
        ("The film is a joy from start to end, with a café scene that you will not forget.", "english"),
        ("invoice wrong amount", "english"),
        ("reset password account login", "english"),
        ("这部电影非常好看，演员也很棒", "other"),
        ("Wann kommt das Paket, das ich bestellt habe?", "other"),
        ("El paquete que compré no ha llegado", "other"),
        ("Le colis que nous avons est vide", "other"),
        ("Het pakket is niet op tijd", "other"),
        ("Посылка не пришла", "other"),
        ("Paczka nie dotarła, proszę o pomoc", "other"),
    ],
)
def test_language_is_detected(text: str, expected: str) -> None:
    assert detect_language([text] * 3) == expected


def test_the_majority_of_the_texts_decides() -> None:
    english = ["Where is the parcel that you have sent to me?"] * 20
    assert detect_language([*english, "Wo ist das Paket?"]) == "english"
    assert detect_language([*english[:2], *["包裹在哪里，请告诉我"] * 10]) == "other"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这部电影非常好看，2 小时", True),
        ("我们住的 hotel 很好，服务也不错", True),
        ("この映画はとても面白かったです", False),
        ("The film 电影", False),
        ("123", False),
    ],
)
def test_chinese_script_is_detected(text: str, expected: bool) -> None:
    assert is_chinese([text]) is expected
