"""Examples that raw text labels itself: pairs, and the choice of the next sentence."""

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
    tuple(f"Document {number} says thing {place}." for place in range(3 + number % 4)) for number in range(20)
]
PLACES = {sentence: (number, place) for number, found in enumerate(CORPUS) for place, sentence in enumerate(found)}


def whole(corpus: list[Document] = CORPUS, size: int = 1000) -> Window:
    return Window(corpus, size)


def options(example: Example) -> dict[str, str]:
    """Letter -> text of the options that an example has; the letters in front are checked and taken off."""
    found = {name: text for name, text in example.fields.items() if name != "query" and text}
    assert list(found) == [f"option_{letter.lower()}" for letter in LETTERS[: len(found)]], "no gap"
    assert all(text.startswith(f"{name[-1].upper()}. ") for name, text in found.items())
    return {name[-1].upper(): text[3:] for name, text in found.items()}


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_labels_of_pairs_come_in_thirds() -> None:
    examples = pair_examples(whole(), 300, python_rng(0))
    assert Counter(item.label for item in examples) == {"yes": 100, "maybe": 100, "no": 100}
    assert [item.label for item in examples[:6]] != ["yes", "maybe", "no"] * 2, "they are shuffled"
    assert len({item.uid for item in examples}) == 300


def test_each_label_says_how_its_sentences_really_relate() -> None:
    seen = Counter()
    for item in pair_examples(whole(), 600, python_rng(1)):
        (document, place), (other, behind) = PLACES[item.fields["first"]], PLACES[item.fields["second"]]
        if item.label == "no":
            assert document != other
            continue
        assert document == other
        distance = behind - place
        seen[item.label, distance > 0] += 1
        assert abs(distance) == 1 if item.label == "yes" else abs(distance) > 1
    assert min(seen[label, forward] for label in ("yes", "maybe") for forward in (True, False)) > 60, "either order"


def test_a_corpus_within_the_window_is_drawn_from_as_a_whole() -> None:
    assert pair_examples(whole(size=20), 60, python_rng(3)) == pair_examples(whole(), 60, python_rng(3))
    assert pair_examples(whole(size=10), 60, python_rng(3)) != pair_examples(whole(), 60, python_rng(3))


# --- choice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 6, 16])
def test_the_right_option_is_adjacent_one_is_of_the_document_and_the_rest_of_as_many_others(count: int) -> None:
    sides = Counter()
    for item in choice_examples(whole(), 400, (count, count), python_rng(0)):
        document, place = PLACES[item.fields["query"]]
        found = {letter: PLACES[text] for letter, text in options(item).items()}
        assert len(found) == count
        right = found.pop(item.label)
        assert right[0] == document
        assert abs(right[1] - place) == 1
        sides[right[1] - place] += 1
        [far] = [where for home, where in found.values() if home == document]
        assert abs(far - place) > 1
        others = [home for home, _ in found.values() if home != document]
        assert len(set(others)) == len(others) == count - 2
    assert min(sides[-1], sides[1]) > 100, "either side"


def test_the_letters_are_right_in_turn_and_say_nothing_about_the_wrong_ones() -> None:
    examples = choice_examples(whole(), 600, (6, 6), python_rng(1))
    assert Counter(item.label for item in examples) == dict.fromkeys("ABCDEF", 100)
    assert [item.label for item in examples[:6]] != list("ABCDEF")
    far = Counter()
    for item in examples:
        home = PLACES[item.fields["query"]][0]
        far.update(k for k, text in options(item).items() if k != item.label and PLACES[text][0] == home)
    assert set(far) == set("ABCDEF")
    assert min(far.values()) > 60, "the option of the same document is not known by its place"


def test_no_two_options_are_the_same() -> None:
    """Documents that share most of their sentences, in capital letters or not."""
    shared = tuple(f"This line stands everywhere {number}." for number in range(3))
    corpus = [(*shared, f"But this one is {n}.", shared[n % 3].upper(), f"And that is {n}.") for n in range(8)]
    for item in choice_examples(whole(corpus), 500, (6, 6), python_rng(2)):
        found = options(item)
        query = item.fields["query"].casefold()
        texts = [text.casefold() for text in found.values()]
        assert len(set(texts)) == 6
        assert query not in texts


def test_the_far_option_is_neither_the_sentence_nor_like_what_is_adjacent_to_it() -> None:
    again = "This line stands here twice."
    document = (again, "Then there is one more.", again.upper(), "And there is an end.")
    seen = set()
    for item in choice_examples(whole([document]), 200, (2, 2), python_rng(0)):
        found = options(item)
        right = found.pop(item.label)
        [wrong] = found.values()
        seen.add(tuple(document.index(text) for text in (item.fields["query"], right, wrong)))
    assert seen == {(0, 1, 3), (1, 0, 3), (1, 2, 3), (3, 2, 1)}


def test_a_sentence_that_stands_in_the_query_s_document_is_no_option_of_another() -> None:
    corpus: list[Document] = [
        ("The first is this.", "The second is that.", "The third is here.", "The fourth is there."),
        ("The second is that.", "The fifth is away.", "The first is this."),
        ("The third is here.", "The sixth is back.", "The fourth is there."),
    ]
    for item in choice_examples(whole(corpus), 300, (4, 4), python_rng(0)):
        texts = set(options(item).values())
        homes = [
            set(document) for document in corpus if {item.fields["query"], options(item)[item.label]} <= {*document}
        ]
        assert any(len(texts & home) == 2 for home in homes), "two of its own, and only two"


def test_documents_that_are_all_alike_cannot_be_chosen_from() -> None:
    same = [tuple(f"This line stands everywhere {n}." for n in range(4))] * 9
    with pytest.raises(DataError, match="6 different options cannot be drawn") as caught:
        choice_examples(whole(same), 3, (6, 6), python_rng(0))
    assert caught.value.remedy
    alone = [("It says it again.", "IT SAYS IT AGAIN.", "It Says It Again.")] * 9
    with pytest.raises(DataError, match="2 different options"):
        choice_examples(whole(alone), 3, (2, 2), python_rng(0))


# --- unified ----------------------------------------------------------------------------------------------------------


def test_unified_has_every_number_of_options_and_empty_fields_for_the_rest() -> None:
    examples = choice_examples(whole(), 1500, (2, 16), python_rng(0), "unified")
    counts = Counter(len(options(item)) for item in examples)
    assert set(counts) == set(range(2, 17))
    assert min(counts.values()) > 60
    assert len({tuple(item.fields) for item in examples}) == 1, "the fields are the same in all of them"
    assert all(item.label in options(item) for item in examples)
    places = Counter(item.label for item in examples if len(options(item)) == 4)
    assert set(places) == set("ABCD")
    assert all(item.uid.startswith("unified-") for item in examples)


def test_bounds_of_unified_are_kept() -> None:
    found = choice_examples(whole(), 200, (3, 5), python_rng(0))
    assert {len(options(item)) for item in found} == {3, 4, 5}
    assert all(len(item.fields) == 1 + 5 for item in found)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (6, 6), (2, 8)])
@pytest.mark.parametrize("size", [12, 1000])
def test_examples_follow_from_the_seed(bounds: tuple[int, int] | None, size: int) -> None:
    def made(seed: int) -> list[Example]:
        rng = python_rng(seed)
        window = whole(size=size)
        return choice_examples(window, 60, bounds, rng) if bounds else pair_examples(window, 60, rng)

    assert made(3) == made(3)
    assert made(3) != made(4)


@pytest.mark.parametrize("bounds", [None, (6, 6)])
def test_sentences_of_an_example_stand_in_one_window(bounds: tuple[int, int] | None) -> None:
    """And what is drawn from moves on: the last documents are drawn as well as the first."""
    corpus = [tuple(f"Document {n} says thing {place}." for place in range(4)) for n in range(200)]
    window, rng = whole(corpus, 8), python_rng(0)
    examples = choice_examples(window, 150, bounds, rng) if bounds else pair_examples(window, 150, rng)
    seen = set()
    for item in examples:
        homes = {int(text.partition("ocument ")[2].split()[0]) for text in item.fields.values()}
        assert max(homes) - min(homes) < 8
        start = int(item.uid.partition("-")[2])
        assert start <= min(homes) <= max(homes) < start + 8
        seen |= homes
    assert max(seen) < 150 + 8
    assert len(seen) > 100
