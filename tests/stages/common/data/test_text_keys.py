"""Keys of texts."""

from __future__ import annotations

from stages.common.data.text_keys import text_key


def test_same_texts_have_one_key() -> None:
    assert text_key(["A  film\n", "b"]) == text_key([" a film", "B"])
    assert text_key(["a film", "b"]) != text_key(["a", "film b"])
    assert text_key(["a film"]) != text_key(["a, film"])
