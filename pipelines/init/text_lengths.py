"""Lengths of texts in tokens, estimated from their characters, because a new recipe is written before its encoders
are downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHARE_COVERED = 0.95
"""Fraction of the texts that the default maximum length does not truncate."""
MIN_LENGTH, MAX_LENGTH = 32, 256
"""Bounds of the default `max_length`, in tokens."""
NUM_SPECIAL = 2
"""Tokens that an encoder adds to a text."""
FIRST_WIDE = 0x2E80
"""First character of the blocks of Chinese, Japanese and Korean, where a character is about one token."""
LETTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the texts of a task."""

    mean: float
    covering: int
    """Length of the texts at `SHARE_COVERED`."""

    @property
    def max_length(self) -> int:
        """The default maximum length of an encoder: a multiple of 8."""
        return min(MAX_LENGTH, max(MIN_LENGTH, -(-(self.covering + NUM_SPECIAL) // 8) * 8))


def estimate_tokens(text: str) -> int:
    """Returns about the number of tokens of a text."""
    num_wide = sum(ord(letter) >= FIRST_WIDE for letter in text)
    return num_wide + -(-(len(text) - num_wide) // LETTERS_PER_TOKEN)


def measure_lengths(texts: Sequence[str]) -> Lengths:
    """Returns the lengths of a sample of texts, of which there must be one or more."""
    lengths = sorted(map(estimate_tokens, texts))
    return Lengths(sum(lengths) / len(lengths), lengths[int(SHARE_COVERED * (len(lengths) - 1))])
