"""Builds pretraining examples that need no labels: sentence pairs, and the choice of the next sentence.

Both are sampled from a window of documents (stages/common/data/corpora.py), which moves on by one document after each
example.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stages.common.data.corpora import Document, Window
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.prompt_pretraining.formats import LETTERS, RELATIONS, option_fields

_MAX_ATTEMPTS = 100
"""Attempts to sample two different sentences of a document before an error is raised."""


class ChoiceQuestion(NamedTuple):
    """A sentence, one that is adjacent to it, and wrong options."""

    query: str
    adjacent: str
    wrong: list[str]


def pair_examples(window: Window, num_examples: int, rng: random.Random, *, first: int = 0) -> list[Example]:
    """Returns pairs of sentences with the fields `first` and `second`; labels yes / maybe / no in equal numbers.

    Args:
        window: At least two documents of three sentences or more.
        num_examples: Number of examples.
        rng: Source of randomness.
        first: Number of the first example, if these are a part of all examples.
    """
    examples = []
    for number in range(first, first + num_examples):
        label = RELATIONS[number % len(RELATIONS)]
        document, other = rng.sample(range(len(window.documents)), 2)
        sentences = window.documents[document]
        index = rng.randrange(len(sentences) - 1)
        if label == "yes":
            pair = [sentences[index], sentences[index + 1]]
            rng.shuffle(pair)
        elif label == "maybe":
            pair = [sentences[position] for position in _not_adjacent(len(sentences), rng)]
        else:
            pair = [sentences[index], rng.choice(window.documents[other])]
        examples.append(Example(f"pair-{number}", {"first": pair[0], "second": pair[1]}, label))
        window.move()
    rng.shuffle(examples)
    return examples


def choice_examples(
    window: Window,
    num_examples: int,
    num_options: tuple[int, int],
    rng: random.Random,
    *,
    name: str = "choice",
    first: int = 0,
) -> list[Example]:
    """Returns examples with a sentence and several options: which option is adjacent to the sentence in its document?

    One wrong option is from elsewhere in the same document, each other one from a different document. All options
    differ from each other and from the sentence, ignoring case, and no option of another document occurs in the
    document of the sentence. The letters are right in turn.

    Args:
        window: Documents of three sentences or more, at least one fewer than options.
        num_examples: Number of examples.
        num_options: Minimum and maximum number of options, which is sampled for each example.
        rng: Source of randomness.
        name: Start of the uids.
        first: Number of the first example, if these are a part of all examples.

    Returns:
        Examples with the fields `query` and `option_a`, `option_b`, ... ("A. ..."). Options that an example does not
        have are empty. The label is a letter.

    Raises:
        DataError: the documents have too few different sentences.
    """
    min_options, max_options = num_options
    examples = []
    for number in range(first, first + num_examples):
        count = rng.randint(min_options, max_options)
        question = _sample_question(window.documents, count, rng)
        options = question.wrong
        rng.shuffle(options)
        right = number % count
        options.insert(right, question.adjacent)
        fields = {"query": question.query} | dict.fromkeys(option_fields(max_options), "")
        fields |= {
            field: f"{letter}. {text}"
            for field, letter, text in zip(option_fields(count), LETTERS, options, strict=False)
        }
        examples.append(Example(f"{name}-{number}", fields, LETTERS[right]))
        window.move()
    rng.shuffle(examples)
    return examples


def _sample_question(documents: Sequence[Document], count: int, rng: random.Random) -> ChoiceQuestion:
    """Samples a question with `count` options."""
    for _ in range(_MAX_ATTEMPTS):
        sentences = rng.choice(documents)
        query, far = _not_adjacent(len(sentences), rng)
        neighbors = [sentences[index] for index in (query - 1, query + 1) if 0 <= index < len(sentences)]
        adjacent = rng.choice(neighbors)
        adjacent_texts = {sentence.casefold() for sentence in neighbors}
        query_text, far_text = sentences[query].casefold(), sentences[far].casefold()
        if query_text != far_text and not {query_text, far_text} & adjacent_texts:
            break
    else:
        raise _too_similar(count)
    wrong = [sentences[far]]
    used = {sentence.casefold() for sentence in sentences}  # no other sentence of this document becomes an option
    others = _in_random_order(len(documents), rng)
    while len(wrong) < count - 1:
        other = next(others, None)
        if other is None:
            raise _too_similar(count)
        new = [sentence for sentence in documents[other] if sentence.casefold() not in used]
        if new:
            wrong.append(rng.choice(new))
            used.add(wrong[-1].casefold())
    return ChoiceQuestion(sentences[query], adjacent, wrong)


def _too_similar(count: int) -> DataError:
    return DataError(
        f"the documents share too many sentences to sample {count} different options.",
        "Use a more varied corpus, raise corpus.window, or use fewer options.",
        key="corpus",
    )


def _not_adjacent(num_sentences: int, rng: random.Random) -> tuple[int, int]:
    """Samples the indices of two sentences of a document that are not adjacent; of three sentences, 0 and 2."""
    while True:
        first, second = rng.sample(range(num_sentences), 2)
        if abs(first - second) > 1:
            return first, second


def _in_random_order(count: int, rng: random.Random) -> Iterator[int]:
    """Yields the numbers below `count` in random order. It shuffles lazily: windows are large, and few are needed."""
    moved: dict[int, int] = {}
    for index in range(count):
        other = rng.randrange(index, count)
        yield moved.get(other, other)
        moved[other] = moved.get(index, index)
