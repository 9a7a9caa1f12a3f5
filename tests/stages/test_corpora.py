"""Next-sentence pairs out of raw text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stages.errors import DataError
from stages.seeds import python_rng
from stages.texts.corpora import CorpusConfig, documents, pair_examples, split_sentences
from stages.texts.data import Source

CORPUS = [tuple(f"Document {number} says thing {place}." for place in range(3 + number)) for number in range(4)]
PLACES = {sentence: (number, place) for number, found in enumerate(CORPUS) for place, sentence in enumerate(found)}


def test_labels_come_in_thirds() -> None:
    examples = pair_examples(CORPUS, 300, python_rng(0))
    assert Counter(item.label for item in examples) == {"yes": 100, "maybe": 100, "no": 100}
    assert [item.label for item in examples[:6]] != ["yes", "maybe", "no"] * 2, "they are shuffled"
    assert len({item.uid for item in examples}) == 300


def test_each_label_says_how_its_sentences_really_relate() -> None:
    seen = Counter()
    for item in pair_examples(CORPUS, 600, python_rng(1)):
        (document, place), (other, behind) = PLACES[item.fields["first"]], PLACES[item.fields["second"]]
        if item.label == "no":
            assert document != other
            continue
        assert document == other
        distance = behind - place
        seen[item.label, distance > 0] += 1
        assert abs(distance) == 1 if item.label == "yes" else abs(distance) > 1
    assert min(seen[label, forward] for label in ("yes", "maybe") for forward in (True, False)) > 60, "either order"


def test_pairs_follow_from_the_seed() -> None:
    first, again, other = (pair_examples(CORPUS, 60, python_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_one_document_is_too_few() -> None:
    with pytest.raises(DataError, match="the corpus has 1 documents") as caught:
        pair_examples(CORPUS[:1], 3, python_rng(0))
    assert "sentence_words" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Is it a fine film? Yes! It was (so I say).", ["Is it a fine film?", "It was (so I say)."]),
        ("He said “this is it.” They all went home.", ["He said “this is it.", "They all went home."]),
        ("It cost 3.5 million. See www.film.org for more.", ["It cost 3.5 million.", "See www.film.org for more."]),
        ("one two three four five six seven eight nine", ["one two three four five", "six seven eight nine"]),
        ("one two three four five six", ["one two three four five"]),
        ("这 是 一 个。 那 是 两 个！他 在 这 里。", ["这 是 一 个。", "那 是 两 个！", "他 在 这 里。"]),
        ("", []),
    ],
)
def test_sentences_end_at_punctuation_and_have_a_length(text: str, sentences: list[str]) -> None:
    assert split_sentences(text, 5) == sentences


def write(path: Path, texts: list[str]) -> CorpusConfig:
    path.write_text("".join(f"{text}\n" for text in texts))
    return CorpusConfig(source=Source(asset=str(path)), sentence_words=8)


A = "The first thing is this. The second thing is that. The third thing is gone."
B = "The fourth thing is this. The fifth thing is that. The sixth thing is gone. Here is a rest."


def test_documents_are_distinct_and_have_three_distinct_sentences(tmp_path: Path) -> None:
    twice = "Only two things are here. Only two things are here. Only two things there."
    config = write(tmp_path / "corpus.txt", [A, twice, "", A.upper(), f"  {A.replace(' ', '  ')}", B])
    found = list(documents(config))
    assert [len(item) for item in found] == [3, 4]
    assert found[0] == ("The first thing is this.", "The second thing is that.", "The third thing is gone.")


def test_a_limit_counts_rows_and_the_column_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text(f"kind\tbody\nx\t{A}\ny\t{B}\n")
    source = Source(asset=str(path), fields={"text": "body"})
    assert len(list(documents(CorpusConfig(source=source)))) == 2
    assert len(list(documents(CorpusConfig(source=source.model_copy(update={"limit": 1}))))) == 1


def test_a_corpus_without_its_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text("body\nx\n")
    with pytest.raises(DataError, match=r"corpus\.csv, line 2: there is no column 'text'") as caught:
        list(documents(CorpusConfig(source=Source(asset=str(path)))))
    assert "body" in caught.value.remedy
