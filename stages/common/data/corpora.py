"""Raw text for prompt pretraining: documents and their sentences, read as a stream.

A corpus may be larger than memory: documents come one by one, and examples are built from a window of at most `window`
documents, which moves on by one document per example. A corpus that fits into the window is sampled as a whole. Of a
larger one only the window and one document per example are read, so shuffle a corpus that is sorted by topic.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from stages.common.data.config import CorpusConfig, Source
from stages.common.data.sources import filtered_rows
from stages.common.data.text_shards import shard_files
from stages.common.errors import DataError
from stages.common.examples import Row

Document = tuple[str, ...]
"""Its sentences, in order; no two are the same."""
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|(?<=[。！？])[”’)\]]*\s*")
"""A full stop inside of a number or an address ends nothing; Chinese and Japanese put no space behind theirs."""


class Documents:
    """The documents of a corpus that have at least `least` distinct sentences, duplicates left out, in file order.

    `num_read` and `num_taken` count the documents that were read so far, and those of them that were long enough and
    new. Of a document that has passed only a hash is kept.
    """

    def __init__(self, config: CorpusConfig, min_sentences: int = 3) -> None:
        self.config = config
        self.min_sentences = min_sentences
        self.num_read = 0
        self.num_taken = 0

    def __iter__(self) -> Iterator[Document]:
        """Reads the file from its start.

        Raises:
            DataError: the column is missing; names the line.
        """
        self.num_read = self.num_taken = 0
        seen: set[bytes] = set()
        for text in document_texts(self.config.source):
            self.num_read += bool(text.strip())
            sentences = distinct_sentences(text, self.config.max_sentence_words)
            if len(sentences) < self.min_sentences or (key := document_digest(sentences)) in seen:
                continue
            seen.add(key)
            self.num_taken += 1
            yield sentences


class Window:
    """At most `size` documents of a stream at a time, from which sentences are drawn."""

    def __init__(self, stream: Iterable[Document], size: int) -> None:
        self.size = size
        self._stream = iter(stream)
        self._oldest = 0
        self.documents = list(islice(self._stream, size))

    def move(self) -> None:
        """Lets the next document in, in the place of the oldest; at the end of the stream the window stays."""
        following = next(self._stream, None)
        if following is not None:
            self.documents[self._oldest] = following
            self._oldest = (self._oldest + 1) % self.size

    def sentences(self, rng: random.Random) -> Iterator[str]:
        """Every distinct sentence of the stream: in random order within a window, one window after the other."""
        seen: set[bytes] = set()
        while self.documents:
            found = [sentence for document in self.documents for sentence in document]
            rng.shuffle(found)
            for sentence in found:
                if (key := text_digest(sentence)) not in seen:
                    seen.add(key)
                    yield sentence
            self.documents = list(islice(self._stream, self.size))


def document_texts(source: Source) -> Iterator[str]:
    """The text of every document of a file, or of a folder of shards, in order; empty ones, too.

    Raises:
        DataError: the column is missing; names the line.
    """
    column = source.fields.get("text", "text")
    for number, (place, row) in enumerate(_rows(source)):
        if source.limit is not None and number >= source.limit:
            return
        if column not in row:
            raise DataError(f"{place}: there is no column {column!r}.", f"Take one of: {', '.join(map(str, row))}.")
        yield str(row[column] or "")


def _rows(source: Source) -> Iterator[Row]:
    """The rows of a file, or of all shards of a folder, one shard after the other in the order of their names."""
    if not Path(source.asset).expanduser().is_dir():
        return filtered_rows(source)
    shards = shard_files(source.asset).values()
    return chain.from_iterable(filtered_rows(source.model_copy(update={"asset": str(path)})) for path in shards)


def check_enough(corpus: Documents, window: Window, required: int, purpose: str) -> None:
    """Refuses a corpus with too few documents.

    Args:
        corpus: The documents, which say how long they must be.
        window: What was read of them.
        required: Documents that are needed at a time.
        purpose: What needs them, for the message.

    Raises:
        DataError: says how many documents there are, how long they must be, and what to do.
    """
    found = len(window.documents)
    if found >= required:
        return
    raise DataError(
        f"the corpus has {found:,} documents of {corpus.min_sentences} different sentences or more, among "
        f"{corpus.num_read:,} in all; {purpose} needs {required:,}.",
        "Name a corpus of more or longer documents, or lower sentence_words, which cuts text into more sentences.",
        key="corpus",
    )


def distinct_sentences(text: str, max_words: int) -> Document:
    """The sentences of a document, each once; see `split_sentences`."""
    return tuple(dict.fromkeys(split_sentences(text, max_words)))


def document_digest(document: Document) -> bytes:
    """16 bytes that are the same for documents that differ in capital letters only."""
    return text_digest(" ".join(document))


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


def text_digest(text: str) -> bytes:
    """16 bytes that are the same for texts that differ in capital letters only."""
    return hashlib.blake2b(text.casefold().encode(), digest_size=16).digest()
