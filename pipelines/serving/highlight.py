"""The words that decided: those without which the probability of the predicted label falls most (occlusion).

Each word of a text is left out once. So the explanation is of the classifier as it is, whatever it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.serving.predictors import ClassifierPredictor
from stages.common.examples import Example

MAX_WORDS = 100
"""Words of a text that are left out in turn. A longer text is left out in as many parts, of several words each."""
MAX_HIGHLIGHTED = 5
MIN_DROP = 0.01
"""Words whose absence changes the probability by less have decided nothing."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,2}|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’-]\w+)*")
"""A word; of a language without spaces, two characters."""


def decisive_words(predictor: ClassifierPredictor, example: Example, label: str, probability: float) -> list[str]:
    """Returns at most `MAX_HIGHLIGHTED` words or groups of words of an example, the most important first.

    Args:
        predictor: The classifier.
        example: The example.
        label: Its predicted label.
        probability: The probability of the label.
    """
    parts = [(name, *span) for name, text in example.fields.items() for span in _spans(text)]
    occluded = [_without(example, name, start, end) for name, start, end in parts]
    kept = [number for number, item in enumerate(occluded) if all(text.strip() for text in item.fields.values())]
    if len(kept) < 2:
        return [example.fields[name][start:end] for name, start, end in parts[:1]]
    drops: dict[str, float] = {}
    for number, prediction in zip(kept, predictor.predict([occluded[number] for number in kept]), strict=True):
        name, start, end = parts[number]
        word = example.fields[name][start:end]
        drops[word] = max(drops.get(word, 0.0), probability - prediction["probabilities"][label])
    ordered = sorted((word for word, drop in drops.items() if drop >= MIN_DROP), key=lambda word: -drops[word])
    return ordered[:MAX_HIGHLIGHTED]


def _spans(text: str) -> Sequence[tuple[int, int]]:
    """Returns start and end of each part that is left out."""
    words = [match.span() for match in _WORD.finditer(text)]
    size = -(-len(words) // MAX_WORDS) or 1
    return [(words[first][0], words[min(first + size, len(words)) - 1][1]) for first in range(0, len(words), size)]


def _without(example: Example, name: str, start: int, end: int) -> Example:
    text = example.fields[name]
    return Example(example.uid, {**example.fields, name: f"{text[:start]} {text[end:]}"})
