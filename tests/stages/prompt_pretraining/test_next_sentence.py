"""Tests of sentence pairs, and of the choice of the next sentence."""

from __future__ import annotations

from collections import Counter

import pytest

from stages.common.data.corpora import Document, Window
from stages.common.errors import DataError
from stages.common.examples import Example
from stages.common.seeds import python_rng
from stages.prompt_pretraining.formats import LETTERS
from stages.prompt_pretraining.next_sentence import choice_examples, pair_examples

CORPUS: list[Document] = [
    tuple(f"Document {number} says thing {index}." for index in range(3 + number % 4)) for number in range(20)
]
POSITIONS = {
    sentence: (number, index) for number, sentences in enumerate(CORPUS) for index, sentence in enumerate(sentences)
}


def window_of(corpus: list[Document] = CORPUS, size: int = 1000) -> Window:
    return Window(corpus, size)


def options(example: Example) -> dict[str, str]:
    """Letter -> text of the options of an example. Checks and removes the letters in the text."""
    texts = {name: text for name, text in example.fields.items() if name != "query" and text}
    assert list(texts) == [f"option_{letter.lower()}" for letter in LETTERS[: len(texts)]]
    assert all(text.startswith(f"{name[-1].upper()}. ") for name, text in texts.items())
    return {name[-1].upper(): text[3:] for name, text in texts.items()}


def test_pair_labels_are_equally_frequent_and_shuffled() -> None:
    examples = pair_examples(window_of(), 300, python_rng(0))
    assert Counter(item.label for item in examples) == {"yes": 100, "maybe": 100, "no": 100}
    assert [item.label for item in examples[:6]] != ["yes", "maybe", "no"] * 2
    assert len({item.uid for item in examples}) == 300


def test_pair_labels_are_correct() -> None:
    counts = Counter()
    for item in pair_examples(window_of(), 600, python_rng(1)):
        (document, first), (other, second) = POSITIONS[item.fields["first"]], POSITIONS[item.fields["second"]]
        if item.label == "no":
            assert document != other
            continue
        assert document == other
        distance = second - first
        counts[item.label, distance > 0] += 1
        assert abs(distance) == 1 if item.label == "yes" else abs(distance) > 1
    assert min(counts[label, forward] for label in ("yes", "maybe") for forward in (True, False)) > 60


def test_corpus_within_the_window_is_sampled_as_a_whole() -> None:
    assert pair_examples(window_of(size=20), 60, python_rng(3)) == pair_examples(window_of(), 60, python_rng(3))
    assert pair_examples(window_of(size=10), 60, python_rng(3)) != pair_examples(window_of(), 60, python_rng(3))


@pytest.mark.parametrize("count", [2, 3, 6, 16])
def test_options_are_adjacent_of_the_document_and_of_others(count: int) -> None:
    sides = Counter()
    for item in choice_examples(window_of(), 400, (count, count), python_rng(0)):
        document, query = POSITIONS[item.fields["query"]]
        positions = {letter: POSITIONS[text] for letter, text in options(item).items()}
        assert len(positions) == count
        right = positions.pop(item.label)
        assert right[0] == document
        assert abs(right[1] - query) == 1
        sides[right[1] - query] += 1
        [far] = [index for number, index in positions.values() if number == document]
        assert abs(far - query) > 1
        others = [number for number, _ in positions.values() if number != document]
        assert len(set(others)) == len(others) == count - 2
    assert min(sides[-1], sides[1]) > 100


def test_letters_are_equally_frequent() -> None:
    examples = choice_examples(window_of(), 600, (6, 6), python_rng(1))
    assert Counter(item.label for item in examples) == dict.fromkeys("ABCDEF", 100)
    assert [item.label for item in examples[:6]] != list("ABCDEF")
    same_document = Counter()
    for item in examples:
        document = POSITIONS[item.fields["query"]][0]
        same_document.update(
            letter for letter, text in options(item).items() if letter != item.label and POSITIONS[text][0] == document
        )
    assert set(same_document) == set("ABCDEF")
    assert min(same_document.values()) > 60


def test_options_differ_ignoring_case() -> None:
    """The documents share most of their sentences, with different case."""
    shared = tuple(f"This line is everywhere {number}." for number in range(3))
    corpus = [(*shared, f"But this one is {n}.", shared[n % 3].upper(), f"And that is {n}.") for n in range(8)]
    for item in choice_examples(window_of(corpus), 500, (6, 6), python_rng(2)):
        texts = [text.casefold() for text in options(item).values()]
        assert len(set(texts)) == 6
        assert item.fields["query"].casefold() not in texts


def test_wrong_option_differs_from_query_and_its_neighbors() -> None:
    repeated = "This line is here twice."
    document = (repeated, "Then there is one more.", repeated.upper(), "And there is an end.")
    seen = set()
    for item in choice_examples(window_of([document]), 200, (2, 2), python_rng(0)):
        texts = options(item)
        right = texts.pop(item.label)
        [wrong] = texts.values()
        seen.add(tuple(document.index(text) for text in (item.fields["query"], right, wrong)))
    assert seen == {(0, 1, 3), (1, 0, 3), (1, 2, 3), (3, 2, 1)}


def test_options_of_other_documents_are_not_in_the_document_of_the_query() -> None:
    corpus: list[Document] = [
        ("The first is this.", "The second is that.", "The third is here.", "The fourth is there."),
        ("The second is that.", "The fifth is away.", "The first is this."),
        ("The third is here.", "The sixth is back.", "The fourth is there."),
    ]
    for item in choice_examples(window_of(corpus), 300, (4, 4), python_rng(0)):
        texts = set(options(item).values())
        pair = {item.fields["query"], options(item)[item.label]}
        assert any(len(texts & {*document}) == 2 for document in corpus if pair <= {*document})


def test_too_similar_documents_raise() -> None:
    same = [tuple(f"This line is everywhere {n}." for n in range(4))] * 9
    with pytest.raises(DataError, match="too many sentences to sample 6 different options") as caught:
        choice_examples(window_of(same), 3, (6, 6), python_rng(0))
    assert caught.value.remedy
    alone = [("It says it again.", "IT SAYS IT AGAIN.", "It Says It Again.")] * 9
    with pytest.raises(DataError, match="2 different options"):
        choice_examples(window_of(alone), 3, (2, 2), python_rng(0))


def test_number_of_options_varies_and_missing_options_are_empty() -> None:
    examples = choice_examples(window_of(), 1500, (2, 16), python_rng(0), name="unified")
    counts = Counter(len(options(item)) for item in examples)
    assert set(counts) == set(range(2, 17))
    assert min(counts.values()) > 60
    assert len({tuple(item.fields) for item in examples}) == 1
    assert all(item.label in options(item) for item in examples)
    labels = {item.label for item in examples if len(options(item)) == 4}
    assert labels == set("ABCD")
    assert all(item.uid.startswith("unified-") for item in examples)


def test_num_options_limits_the_number() -> None:
    examples = choice_examples(window_of(), 200, (3, 5), python_rng(0))
    assert {len(options(item)) for item in examples} == {3, 4, 5}
    assert all(len(item.fields) == 1 + 5 for item in examples)


@pytest.mark.parametrize("bounds", [None, (6, 6), (2, 8)])
@pytest.mark.parametrize("size", [12, 1000])
def test_examples_depend_on_the_seed(bounds: tuple[int, int] | None, size: int) -> None:
    def build(seed: int) -> list[Example]:
        rng = python_rng(seed)
        window = window_of(size=size)
        return choice_examples(window, 60, bounds, rng) if bounds else pair_examples(window, 60, rng)

    assert build(3) == build(3)
    assert build(3) != build(4)


@pytest.mark.parametrize("bounds", [None, (6, 6)])
def test_sentences_of_an_example_are_in_one_window(bounds: tuple[int, int] | None) -> None:
    """The window moves through the corpus: the last documents are sampled, too."""
    corpus = [tuple(f"Document {n} says thing {index}." for index in range(4)) for n in range(200)]
    window, rng = window_of(corpus, 8), python_rng(0)
    examples = choice_examples(window, 150, bounds, rng) if bounds else pair_examples(window, 150, rng)
    seen = set()
    for item in examples:
        documents = {int(text.partition("ocument ")[2].split()[0]) for text in item.fields.values()}
        assert max(documents) - min(documents) < 8
        start = int(item.uid.partition("-")[2])
        assert start <= min(documents) <= max(documents) < start + 8
        seen |= documents
    assert max(seen) < 150 + 8
    assert len(seen) > 100
