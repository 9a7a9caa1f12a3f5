"""Lengths of texts in tokens, estimated from their characters, because a new recipe is written before its encoders
are downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SHARE_COVERED = 0.95
"""Fraction of the texts that the default maximum length does not truncate."""
MIN_LENGTH, MAX_LENGTH = 32, 256
"""Bounds of the default `max_length`, in tokens."""
MARGIN = 1.5
"""Factor for texts with more tokens per letter than usual, such as addresses and names."""
NUM_SPECIAL = 2
"""Tokens that an encoder adds to a text."""
FIRST_WIDE = 0x2E80
"""First character of the blocks of Chinese, Japanese and Korean, where a character is about one token."""
LETTERS_PER_TOKEN = 4
MAX_WORD_LENGTH = 14
"""Mean number of letters between spaces above which spaces do not separate words."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the texts of a task."""

    mean: float
    covering: int
    """Length of the texts at `SHARE_COVERED`."""
    analyzer: Literal["word", "char"]
    """Units that TF-IDF counts: char for Chinese, Japanese and Korean, and for texts without spaces between words."""

    @property
    def max_length(self) -> int:
        """The default maximum length of an encoder: a multiple of 8, with a margin, because batches are padded only to
        their longest text.
        """
        return min(MAX_LENGTH, max(MIN_LENGTH, -(-(round(MARGIN * self.covering) + NUM_SPECIAL) // 8) * 8))


def estimate_tokens(text: str) -> int:
    """Returns about the number of tokens of a text."""
    num_wide = _num_wide(text)
    return num_wide + -(-(len(text) - num_wide) // LETTERS_PER_TOKEN)


def measure_lengths(texts: Sequence[str]) -> Lengths:
    """Returns the lengths of a sample of texts, of which there must be one or more."""
    lengths = sorted(map(estimate_tokens, texts))
    num_words = sum(len(text.split()) for text in texts)
    num_letters = sum(len(text) for text in texts)
    is_wide = 2 * sum(map(_num_wide, texts)) > num_letters
    return Lengths(
        mean=sum(lengths) / len(lengths),
        covering=lengths[int(SHARE_COVERED * (len(lengths) - 1))],
        analyzer="char" if is_wide or num_letters > MAX_WORD_LENGTH * num_words else "word",
    )


def _num_wide(text: str) -> int:
    return sum(ord(letter) >= FIRST_WIDE for letter in text)
