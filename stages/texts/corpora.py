"""Raw text for prompt pretraining: documents to sentences, sentences to next-sentence pairs.

The pair format is that of PPT (Gu et al., ACL 2022, https://arxiv.org/abs/2109.04332): of two sentences, are they
adjacent in one document (yes, in either order), of one document but not adjacent (maybe), or of two documents (no)? A
third each.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, Field

from stages.errors import DataError
from stages.tasks import Example
from stages.texts.data import Source, kept_rows

RELATIONS = ("yes", "maybe", "no")

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|(?<=[。！？])[”’)\]]*\s*")
"""A full stop inside of a number or an address ends nothing; Chinese and Japanese put no space behind theirs."""


class CorpusConfig(BaseModel, frozen=True, extra="forbid"):
    """A raw corpus: one document a row."""

    source: Source = Field(description="The file; its field `text` is the document.")
    num_examples: int = Field(1000, ge=3, description="Pretraining examples to build.")
    sentence_words: int = Field(
        24,
        ge=4,
        description="Words of a sentence at the most; text without punctuation is cut into pieces of this length.",
    )


def documents(config: CorpusConfig) -> Iterator[tuple[str, ...]]:
    """The corpus as documents of at least three distinct sentences, duplicates left out, in file order."""
    seen: set[str] = set()
    column = config.source.fields.get("text", "text")
    for number, (place, row) in enumerate(kept_rows(config.source)):
        if config.source.limit is not None and number >= config.source.limit:
            return
        if column not in row:
            raise DataError(f"{place}: there is no column {column!r}.", f"Take one of: {', '.join(map(str, row))}.")
        sentences = tuple(dict.fromkeys(split_sentences(str(row[column] or ""), config.sentence_words)))
        key = " ".join(sentences).casefold()
        if len(sentences) >= 3 and key not in seen:
            seen.add(key)
            yield sentences


def split_sentences(text: str, max_words: int) -> list[str]:
    """Sentences of a document, by their punctuation; what is longer than `max_words` words is cut into pieces.

    Pieces of fewer than four words (headings, left-overs) are dropped.
    """
    found = []
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        for start in range(0, len(words), max_words):
            piece = words[start : start + max_words]
            if len(piece) >= 4:
                found.append(" ".join(piece))
    return found


def pair_examples(corpus: Sequence[Sequence[str]], num_examples: int, rng: random.Random) -> list[Example]:
    """Builds next-sentence pairs with the fields `first` and `second`, labels yes / maybe / no in equal numbers.

    Raises:
        DataError: fewer than two documents.
    """
    if len(corpus) < 2:
        raise DataError(
            f"the corpus has {len(corpus)} documents of three sentences or more; pairs need two.",
            "Name a corpus of longer documents, or lower sentence_words.",
        )
    examples = []
    for number in range(num_examples):
        label = RELATIONS[number % len(RELATIONS)]
        document, other = rng.sample(range(len(corpus)), 2)
        sentences = corpus[document]
        place = rng.randrange(len(sentences) - 1)
        if label == "yes":
            pair = [sentences[place], sentences[place + 1]]
            rng.shuffle(pair)
        elif label == "maybe":
            first, second = _apart(len(sentences), rng)
            pair = [sentences[first], sentences[second]]
        else:
            pair = [sentences[place], rng.choice(corpus[other])]
        examples.append(Example(f"pair-{number}", {"first": pair[0], "second": pair[1]}, label))
    rng.shuffle(examples)
    return examples


def _apart(num_sentences: int, rng: random.Random) -> tuple[int, int]:
    """Two places of one document that are not adjacent; three sentences have 0 and 2."""
    while True:
        first, second = rng.sample(range(num_sentences), 2)
        if abs(first - second) > 1:
            return first, second
