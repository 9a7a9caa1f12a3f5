"""Raw text for prompt pretraining: documents and their sentences, read as a stream.

A corpus may be larger than memory: documents come one by one, and examples are built from a window of at most `window`
documents, which advances by one document per example. A corpus that fits into the window is sampled as a whole. In a
larger corpus only the window and one document per example are read, so shuffle a corpus that is sorted by topic.
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
"""Its sentences, in order, without duplicates."""
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|(?<=[。！？])[”’)\]]*\s*")
"""A period inside a number or an address ends no sentence; Chinese and Japanese have no space after a period."""


class Documents:
    """The documents of a corpus with at least `min_sentences` distinct sentences, without duplicates, in file order.

    `num_read` counts the documents read so far, `num_taken` those that were long enough and new. Only a hash of each
    past document is kept in memory.
    """

    def __init__(self, config: CorpusConfig, min_sentences: int = 3) -> None:
        self.config = config
        self.min_sentences = min_sentences
        self.num_read = 0
        self.num_taken = 0

    def __iter__(self) -> Iterator[Document]:
        """Reads the file from the start.

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
    """A moving window of at most `size` documents of a stream, from which sentences are drawn."""

    def __init__(self, stream: Iterable[Document], size: int) -> None:
        self.size = size
        self._stream = iter(stream)
        self._oldest = 0
        self.documents = list(islice(self._stream, size))

    def move(self) -> None:
        """Replaces the oldest document by the next one; at the end of the stream the window stays as it is."""
        following = next(self._stream, None)
        if following is not None:
            self.documents[self._oldest] = following
            self._oldest = (self._oldest + 1) % self.size

    def sentences(self, rng: random.Random) -> Iterator[str]:
        """Yields every distinct sentence of the stream: window by window, in random order within a window."""
        seen: set[bytes] = set()
        while self.documents:
            sentences = [sentence for document in self.documents for sentence in document]
            rng.shuffle(sentences)
            for sentence in sentences:
                if (key := text_digest(sentence)) not in seen:
                    seen.add(key)
                    yield sentence
            self.documents = list(islice(self._stream, self.size))


def document_texts(source: Source) -> Iterator[str]:
    """Yields the text of every document of a file, or of a folder of shards, in order, including empty ones.

    Raises:
        DataError: the column is missing; names the line.
    """
    column = source.fields.get("text", "text")
    for number, (location, row) in enumerate(_rows(source)):
        if source.limit is not None and number >= source.limit:
            return
        if column not in row:
            raise DataError(f"{location}: there is no column {column!r}.", f"Use one of: {', '.join(map(str, row))}.")
        yield str(row[column] or "")


def _rows(source: Source) -> Iterator[Row]:
    """Returns the rows of a file, or of all shards of a folder in the order of their names."""
    if not Path(source.asset).expanduser().is_dir():
        return filtered_rows(source)
    shards = shard_files(source.asset).values()
    return chain.from_iterable(filtered_rows(source.model_copy(update={"asset": str(path)})) for path in shards)


def check_enough(corpus: Documents, window: Window, required: int, purpose: str) -> None:
    """Checks that a corpus has enough documents.

    Args:
        corpus: The documents, with their minimum length.
        window: The first window of them.
        required: Documents that are needed at a time.
        purpose: What needs them, for the message.

    Raises:
        DataError: there are too few documents; names their number and their minimum length.
    """
    num_documents = len(window.documents)
    if num_documents >= required:
        return
    raise DataError(
        f"the corpus has {num_documents:,} documents with at least {corpus.min_sentences} different sentences, among "
        f"{corpus.num_read:,} documents in total; {purpose} needs {required:,}.",
        "Use a corpus with more or longer documents, or lower max_sentence_words to get more sentences per document.",
        key="corpus",
    )


def distinct_sentences(text: str, max_words: int) -> Document:
    """Returns the sentences of a document without duplicates; see `split_sentences`."""
    return tuple(dict.fromkeys(split_sentences(text, max_words)))


def document_digest(document: Document) -> bytes:
    """Returns 16 bytes, equal for documents that differ only in letter case."""
    return text_digest(" ".join(document))


def split_sentences(text: str, max_words: int) -> list[str]:
    """Splits a document into sentences by punctuation, and sentences of more than `max_words` words into pieces.

    Drops pieces of fewer than four words, such as headings.
    """
    sentences = []
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        for start in range(0, len(words), max_words):
            piece = words[start : start + max_words]
            if len(piece) >= 4:
                sentences.append(" ".join(piece))
    return sentences


def text_digest(text: str) -> bytes:
    """Returns 16 bytes, equal for texts that differ only in letter case."""
    return hashlib.blake2b(text.casefold().encode(), digest_size=16).digest()
