"""Default patterns and label words of a new task, derived from the names of its labels. The user can replace them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from stages.common.errors import VerbalizerError
from stages.common.patterns.config import Family
from stages.common.patterns.verbalizers import Verbalizer

Kind = Literal["topic", "sentiment", "rating", "pair"]
SHORT = {"pos": "positive", "neg": "negative", "neu": "neutral"}
SENTIMENT = {
    *SHORT, *SHORT.values(), "good", "bad", "great", "terrible", "fresh", "rotten", "mixed", "happy", "unhappy",
    "very positive", "very negative", "very good", "very bad", "excellent", "poor", "okay", "ok",
}  # fmt: skip
RATING_COLUMNS = {"rating", "ratings", "stars", "star"}
RATING_WORDS = ("terrible", "bad", "okay", "good", "great")
"""Words for one to five stars, as in PET for Yelp."""
STOP = {"and", "or", "of", "the", "a", "an", "in", "on", "to", "for", "with", "other", "misc", "non", "not", "no"}
# For causal models, which predict the word after the text.
PATTERNS: dict[Kind, dict[str, str]] = {
    "topic": {
        "topic": "{text}\nTopic:{mask}",
        "about": "{text}\nThis text is about{mask}",
        "category": "Text: {text}\nCategory:{mask}",
    },
    "sentiment": {
        "sentiment": "Text: {text}\nSentiment:{mask}",
        "opinion": "{text}\nThe overall opinion is{mask}",
        "tone": "{text}\nThe tone of this text is{mask}",
    },
    "rating": {
        "summary": "{text}\nIn summary, it is{mask}",
        "all": "{text}\nAll in all, it was{mask}",
        "verdict": "Review: {text}\nVerdict:{mask}",
    },
    "pair": {
        "relation": "{text_a}\n{text_b}\nRelation:{mask}",
        "category": "First: {text_a}\nSecond: {text_b}\nCategory:{mask}",
        "both": "{text_a}\n{text_b}\nThese two texts are{mask}",
    },
}


def kind_of(labels: Sequence[str], column: str, *, is_pair: bool) -> Kind:
    """Returns the kind of task that the labels suggest."""
    if is_pair:
        return "pair"
    if column.casefold() in RATING_COLUMNS and set(labels) <= set("12345"):
        return "rating"
    return "sentiment" if all(clean(label).casefold() in SENTIMENT for label in labels) else "topic"


def default_patterns(kind: Kind, family: Family) -> dict[str, str]:
    """Returns name -> pattern for a family of models."""
    if family == "causal":
        return dict(PATTERNS[kind])
    return {name: text.replace("\n", " ").replace("{mask}", " {mask}.") for name, text in PATTERNS[kind].items()}


def has_word(label: str) -> bool:
    """Returns True if there is a word in the name of a label. `0` and `c1` have none."""
    return any(len(part) > 1 and part.isalpha() for part in _name(label).split())


def clean(label: str) -> str:
    """Splits a label into words: `Sci/Tech` becomes `Sci Tech`, `sci_tech` becomes `sci tech`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return " ".join(re.sub(r"[\W_]+", " ", spaced).split())


def label_words(labels: Sequence[str], kind: Kind, tokenizer: Any, family: Family) -> dict[str, list[str]]:
    """Returns label -> words of its name that the backbone knows. The list is empty if it knows none.

    Prefers words of one token: the full name, else the parts of the name that no other label has. Otherwise uses the
    full name as several tokens.
    """
    if kind == "rating":
        return {label: [RATING_WORDS[int(label) - 1]] for label in labels}
    names = {label: _name(label) for label in labels}
    parts = {label: [part for part in name.split() if part.casefold() not in STOP] for label, name in names.items()}
    words = {}
    for label, name in names.items():
        others = {part.casefold() for other in labels if other != label for part in parts[other]}
        own = [part for part in parts[label] if part.casefold() not in others]
        cases = [name.casefold(), name]
        short = [item for item in cases if num_tokens(item, tokenizer, family) == 1][:1]
        short = short or [item.casefold() for item in own if num_tokens(item.casefold(), tokenizer, family) == 1]
        long = [item for item in cases if num_tokens(item, tokenizer, family) > 1][:1]
        words[label] = short or long if has_word(label) else []
    return words


def num_tokens(word: str, tokenizer: Any, family: Family) -> int:
    """Returns the number of tokens of a word; 0 if the backbone does not know it."""
    try:
        return Verbalizer.of({"": [word]}, tokenizer, family).longest
    except VerbalizerError:
        return 0


def _name(label: str) -> str:
    name = clean(label)
    return SHORT.get(name.casefold(), name)
