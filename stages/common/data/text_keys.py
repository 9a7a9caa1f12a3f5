"""When are two texts the same?"""

from __future__ import annotations

from collections.abc import Iterable


def text_key(texts: Iterable[str]) -> str:
    """Returns a key that is equal for the same texts. Letter case and the kind of spaces do not matter."""
    return "\x1f".join(" ".join(text.casefold().split()) for text in texts)
