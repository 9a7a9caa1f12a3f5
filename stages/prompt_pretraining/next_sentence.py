"""Builds pretraining examples that need no labels: sentence pairs, and the choice of the next sentence.

Both are sampled from a window of documents (stages/common/data/corpora.py), which moves on by one document after each
example.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from stages.common.data.corpora import Document, Window
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.prompt_pretraining.formats import LETTERS, RELATIONS, option_fields

_TRIES = 100
"""Draws of a document and two of its sentences, before it is said that there are none that differ."""


def pair_examples(window: Window, num_examples: int, rng: random.Random, first: int = 0) -> list[Example]:
    """Pairs of sentences with the fields `first` and `second`, labels yes / maybe / no in equal numbers.

    Args:
        window: At least two documents of three sentences or more.
        num_examples: How many.
        rng: Decides everything.
        first: Number of the first one, where this is a part of the examples.
    """
    examples = []
    for number in range(first, first + num_examples):
        label = RELATIONS[number % len(RELATIONS)]
        document, other = rng.sample(range(len(window.documents)), 2)
        sentences = window.documents[document]
        place = rng.randrange(len(sentences) - 1)
        if label == "yes":
            pair = [sentences[place], sentences[place + 1]]
            rng.shuffle(pair)
        elif label == "maybe":
            first, second = _apart(len(sentences), rng)
            pair = [sentences[first], sentences[second]]
        else:
            pair = [sentences[place], rng.choice(window.documents[other])]
        examples.append(Example(f"pair-{number}", {"first": pair[0], "second": pair[1]}, label))
        window.move()
    rng.shuffle(examples)
    return examples


def choice_examples(
    window: Window,
    num_examples: int,
    num_options: tuple[int, int],
    rng: random.Random,
    name: str = "choice",
    first: int = 0,
) -> list[Example]:
    """A sentence and its options, of which one is adjacent to it in its document: which one?

    One more option stands elsewhere in the same document, and the others in as many other documents. No two options
    are the same (capital letters aside), none is the sentence itself, and none of another document stands in the
    sentence's document, too. The letters are right in turn.

    Args:
        window: Documents of three sentences or more; at least one fewer than there are options.
        num_examples: How many.
        num_options: The fewest and the most options; their number is drawn anew for each example.
        rng: Decides everything.
        name: Start of the examples' `uid`s.
        first: Number of the first one, where this is a part of the examples.

    Returns:
        Examples with the fields `query` and `option_a`, `option_b`, ... ("A. ..."); options that an example lacks are
        empty. The label is a letter.

    Raises:
        DataError: the documents have too few different sentences.
    """
    fewest, most = num_options
    examples = []
    for number in range(first, first + num_examples):
        count = rng.randint(fewest, most)
        query, right, options = _drawn(window.documents, count, rng)
        rng.shuffle(options)
        place = number % count
        options.insert(place, right)
        fields = {"query": query} | dict.fromkeys(option_fields(most), "")
        fields |= {
            field: f"{letter}. {text}"
            for field, letter, text in zip(option_fields(count), LETTERS, options, strict=False)
        }
        examples.append(Example(f"{name}-{number}", fields, LETTERS[place]))
        window.move()
    rng.shuffle(examples)
    return examples


def _drawn(documents: Sequence[Document], count: int, rng: random.Random) -> tuple[str, str, list[str]]:
    """A sentence, what is adjacent to it, and `count` - 1 wrong options, all different."""
    for _ in range(_TRIES):
        sentences = rng.choice(documents)
        query, far = _apart(len(sentences), rng)
        near = [sentences[place] for place in (query - 1, query + 1) if 0 <= place < len(sentences)]
        right = rng.choice(near)
        adjacent = {sentence.casefold() for sentence in near}
        asked, elsewhere = sentences[query].casefold(), sentences[far].casefold()
        if asked != elsewhere and not {asked, elsewhere} & adjacent:
            break
    else:
        raise _too_alike(count)
    wrong = [sentences[far]]
    taken = {sentence.casefold() for sentence in sentences}  # so that nothing more of this document is drawn
    others = _in_random_order(len(documents), rng)
    while len(wrong) < count - 1:
        other = next(others, None)
        if other is None:
            raise _too_alike(count)
        new = [sentence for sentence in documents[other] if sentence.casefold() not in taken]
        if new:
            wrong.append(rng.choice(new))
            taken.add(wrong[-1].casefold())
    return sentences[query], right, wrong


def _too_alike(count: int) -> DataError:
    return DataError(
        f"the documents share so many sentences that {count} different options cannot be drawn.",
        "Name a more varied corpus, raise its window, or take fewer options.",
        key="corpus",
    )


def _apart(num_sentences: int, rng: random.Random) -> tuple[int, int]:
    """Two places of one document that are not adjacent; three sentences have 0 and 2."""
    while True:
        first, second = rng.sample(range(num_sentences), 2)
        if abs(first - second) > 1:
            return first, second


def _in_random_order(count: int, rng: random.Random) -> Iterator[int]:
    """The numbers below `count`, shuffled as they are asked for: windows are large, and few are needed."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)
