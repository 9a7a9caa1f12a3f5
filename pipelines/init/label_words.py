"""Label words of a new task that come from the names of its labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.init.language import ENGLISH_WORDS
from stages.common.errors import VerbalizerError
from stages.common.patterns.config import Family
from stages.common.patterns.verbalizers import Verbalizer

STOP = {"and", "or", "of", "the", "a", "an", "in", "on", "to", "for", "with", "other", "misc", "non", "not", "no"}
"""Parts of a name that are no label words on their own."""


MAX_DESCRIBED = 5
"""Maximum number of words that are taken from a description."""


def has_word(label: str) -> bool:
    """Returns True if there is a word in the name of a label. `0` and `c1` have none."""
    return any(len(part) > 1 and part.isalpha() for part in clean(label).split())


def clean(label: str) -> str:
    """Splits a label into words: `Sci/Tech` becomes `Sci Tech`, `rec.autos` `rec autos`, `TVRepair` `TV Repair`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return " ".join(re.sub(r"[\W_]+", " ", spaced).split())


def words_of_names(labels: Sequence[str], tokenizer: Any, family: Family) -> dict[str, list[str]]:
    """Returns label -> words of its name that the backbone knows. The list is empty if it knows none.

    Prefers words of one token: the full name, else the parts of the name that no other label has. Otherwise uses the
    full name as several tokens.
    """
    names = {label: clean(label) for label in labels}
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


def words_of_descriptions(
    descriptions: Mapping[str, str], names: Mapping[str, Sequence[str]], tokenizer: Any, family: Family
) -> dict[str, list[str]]:
    """Returns label -> words of its description that the backbone knows as one token, at most `MAX_DESCRIBED`.

    Words that several descriptions have, and frequent words of English, are left out. A label without a description, or
    without such words in it, has the words of its name.

    Args:
        descriptions: Label -> text, for some labels.
        names: Label -> words of its name.
        tokenizer: Tokenizer of the backbone.
        family: Family of the backbone.
    """
    parts = {label: list(dict.fromkeys(clean(text).casefold().split())) for label, text in descriptions.items()}
    counts = Counter(part for item in parts.values() for part in item)
    words = {label: list(item) for label, item in names.items()}
    for label, item in parts.items():
        own = [part for part in item if counts[part] == 1 and part not in STOP | ENGLISH_WORDS]
        words[label] = [part for part in own if num_tokens(part, tokenizer, family) == 1][:MAX_DESCRIBED] or words[
            label
        ]
    return words


def num_tokens(word: str, tokenizer: Any, family: Family) -> int:
    """Returns the number of tokens of a word; 0 if the backbone does not know it."""
    try:
        return Verbalizer.of({"": [word]}, tokenizer).longest
    except VerbalizerError:
        return 0
