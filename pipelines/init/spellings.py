"""Labels that are probably one, in several spellings: `Spam` and `spam`, or 1, `1.0` and `01`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping


def spelling_key(label: str) -> str:
    """Returns what all spellings of a label have in common. Letter case, spaces, `_`, `-` and zeros do not matter."""
    number = re.fullmatch(r"([+-]?\d{1,18})(?:\.0+)?", label)
    if number:
        return str(int(number.group(1)))
    return " ".join(re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", label).casefold()).split()) or label


def spelling_variants(counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Returns key -> spellings of each label that has several, the most frequent first.

    Args:
        counts: Label -> number of its rows.
    """
    by_key: dict[str, list[str]] = {}
    for label in sorted(counts, key=lambda item: -counts[item]):
        by_key.setdefault(spelling_key(label), []).append(label)
    return {key: labels for key, labels in by_key.items() if len(labels) > 1}
