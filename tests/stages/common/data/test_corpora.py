"""Tests of corpora: documents, sentences, and the window that examples are drawn from."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from stages.common.data.config import CorpusConfig, Source
from stages.common.data.corpora import Document, Documents, Window, check_enough, split_sentences
from stages.common.errors import DataError
from stages.common.seeds import python_rng
from tests.support.small_models import write_lines


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
def test_split_sentences_uses_punctuation_and_a_maximum_length(text: str, sentences: list[str]) -> None:
    assert split_sentences(text, 5) == sentences


def write(path: Path, texts: list[str]) -> CorpusConfig:
    path.write_text("".join(f"{text}\n" for text in texts))
    return CorpusConfig(source=Source(asset=str(path)), max_sentence_words=8)


A = "The first thing is this. The second thing is that. The third thing is gone."
B = "The fourth thing is this. The fifth thing is that. The sixth thing is gone. Here is a rest."


def test_documents_are_distinct_with_three_distinct_sentences(tmp_path: Path) -> None:
    twice = "Only two things are here. Only two things are here. Only two things there."
    config = write(tmp_path / "corpus.txt", [A, twice, "", A.upper(), f"  {A.replace(' ', '  ')}", B])
    actual = list(Documents(config))
    assert [len(item) for item in actual] == [3, 4]
    assert actual[0] == ("The first thing is this.", "The second thing is that.", "The third thing is gone.")


def test_corpus_can_be_a_folder_of_shards_without_duplicates(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    parquet.write_table(pyarrow.table({"text": [B, A]}), folder / "part-2.parquet")
    write_lines(folder / "part-1.jsonl", [{"text": A}, {"text": "Too short."}])
    (folder / "_SUCCESS").touch()
    (tmp_path / "whole.txt").write_text(f"{A}\nToo short.\n{B}\n{A}\n")
    actual, full = (
        Documents(CorpusConfig(source=Source(asset=str(tmp_path / name)), max_sentence_words=8))
        for name in ("corpus", "whole.txt")
    )
    assert [len(item) for item in actual] == [3, 4]
    assert list(actual) == list(full)
    assert (actual.num_read, actual.num_taken) == (full.num_read, full.num_taken) == (4, 2)
    short = CorpusConfig(source=Source(asset=str(folder), limit=2), max_sentence_words=8)
    assert len(list(Documents(short))) == 1, "the limit applies to all shards together"


def test_corpus_has_a_column_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text(f"kind\tbody\nx\t{A}\ny\t{B}\n")
    source = Source(asset=str(path), fields={"text": "body"})
    assert len(list(Documents(CorpusConfig(source=source)))) == 2
    assert len(list(Documents(CorpusConfig(source=source.model_copy(update={"limit": 1}))))) == 1


def test_corpus_without_the_column_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text("body\nx\n")
    with pytest.raises(DataError, match=r"corpus\.csv, line 2: there is no column 'text'") as caught:
        list(Documents(CorpusConfig(source=Source(asset=str(path)))))
    assert "body" in caught.value.remedy


@pytest.mark.parametrize("least", [1, 4])
def test_documents_have_a_minimum_number_of_sentences(least: int, tmp_path: Path) -> None:
    documents = Documents(write(tmp_path / "corpus.txt", ["Only one thing is here.", A, B, "too short", "", A]), least)
    assert [len(item) for item in documents] == ([1, 3, 4] if least == 1 else [4])
    assert (documents.num_read, documents.num_taken) == (5, 3 if least == 1 else 1), "an empty line is not a document"
    list(documents)
    assert documents.num_read == 5, "each iteration starts again"


def test_txt_corpus_has_one_document_per_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.raw.gz"
    path.write_bytes(gzip.compress(f"{A}\r\n{B}\n".encode()))
    config = CorpusConfig(source=Source(asset=str(path), format="txt"), max_sentence_words=8)
    assert [len(item) for item in Documents(config)] == [3, 4]


def numbered(count: int, read: list[int] | None = None) -> Iterator[Document]:
    """Documents that contain their number; `read` collects the numbers as they are read."""
    for number in range(count):
        if read is not None:
            read.append(number)
        yield tuple(f"Document {number} says thing {position}." for position in range(4))


def numbers(window: Window) -> list[int]:
    return sorted(int(document[0].split()[1]) for document in window.documents)


def test_window_moves_by_one_document() -> None:
    read: list[int] = []
    window = Window(numbered(1000, read), 3)
    assert numbers(window) == [0, 1, 2]
    for start in range(1, 8):
        window.move()
        assert numbers(window) == [start, start + 1, start + 2], "the oldest document is replaced"
    assert len(read) == 10


@pytest.mark.parametrize("size", [3, 5])
def test_window_stays_at_the_end_of_the_corpus(size: int) -> None:
    window = Window(numbered(3), size)
    before = list(window.documents)
    window.move()
    assert window.documents == before == list(numbered(3)), "in the order of the file"


def test_window_yields_each_sentence_once_in_random_order() -> None:
    read: list[int] = []
    twice = [*numbered(2), *numbered(2)]
    actual = list(Window(twice, 2).sentences(python_rng(0)))
    assert sorted(actual) == sorted(sentence for document in twice[:2] for sentence in document)
    assert actual != sorted(actual)
    assert actual == list(Window(twice, 2).sentences(python_rng(0))) != list(Window(twice, 2).sentences(python_rng(1)))
    sentences = Window(numbered(1000, read), 3).sentences(python_rng(0))
    assert {int(next(sentences).split()[1]) for _ in range(12)} == {0, 1, 2}
    next(sentences)
    assert len(read) == 6, "the next window, and nothing after it"


def test_check_enough_names_the_number_of_documents(tmp_path: Path) -> None:
    documents = Documents(write(tmp_path / "corpus.txt", ["Only one thing is here.", A, "a title", B]), 3)
    window = Window(documents, 10)
    assert check_enough(documents, window, 2, "the format pair") is None
    with pytest.raises(DataError) as caught:
        check_enough(documents, window, 5, "the format choice")
    assert caught.value.problem == (
        "the corpus has 2 documents with at least 3 different sentences, among 4 documents in total; "
        "the format choice needs 5."
    )
    assert "max_sentence_words" in caught.value.remedy
