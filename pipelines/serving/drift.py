"""Compares new texts with those that a classifier learned from: language, length and confidence.

A classifier labels any text. If the new texts are of another kind, its labels are worse than its report says.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_TEXTS = 20
"""Fewer texts differ by chance."""
MAX_TEXTS = 500
"""Texts that are compared."""
MAX_CHARACTERS = 1000
"""First characters of a text that are compared, so that long texts take little memory."""
LENGTH_RATIO = 3.0
"""Texts that are longer or shorter by this factor differ."""
CONFIDENCE_GAP = 0.1
"""Mean probabilities of the predicted label that differ by more differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextProfile:
    """What texts are like.

    Args:
        num_texts: Their number.
        language: Name of their language.
        length: Median number of characters, at most `MAX_CHARACTERS`.
        confidence: Mean probability of the predicted label; None if it is unknown.
    """

    num_texts: int
    language: str
    length: float
    confidence: float | None

    @classmethod
    def of(
        cls, texts: Sequence[str], confidences: Sequence[float], detect_language: Callable[[Sequence[str]], str]
    ) -> TextProfile:
        """Measures texts, at least one.

        Args:
            texts: The texts.
            confidences: Probabilities of the predicted labels of texts like these; empty if unknown.
            detect_language: Returns the language of texts.
        """
        heads = [text[:MAX_CHARACTERS] for text in texts]
        return cls(
            num_texts=len(heads),
            language=detect_language(heads),
            length=statistics.median(map(len, heads)),
            confidence=statistics.fmean(confidences) if confidences else None,
        )


def differences(known: TextProfile, new: TextProfile) -> list[str]:
    """Returns a sentence for each way in which new texts differ from known ones; none for few texts."""
    if min(known.num_texts, new.num_texts) < MIN_TEXTS:
        return []
    sentences = []
    if known.language != new.language:
        sentences.append(f"They are in {new.language}, not in {known.language}.")
    ratio = max(new.length, 1) / max(known.length, 1)
    if not 1 / LENGTH_RATIO < ratio < LENGTH_RATIO:
        sentences.append(f"Half of them have more than {new.length:,.0f} characters, not {known.length:,.0f}.")
    gap = 0.0 if known.confidence is None or new.confidence is None else known.confidence - new.confidence
    if gap > CONFIDENCE_GAP:
        mean, before = f"{new.confidence:.0%}", f"{known.confidence:.0%}"
        sentences.append(f"Their labels have a mean probability of {mean}, not {before}.")
    return sentences
