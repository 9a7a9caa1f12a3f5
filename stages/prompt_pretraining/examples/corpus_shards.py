"""A corpus in shards, from which many workers build examples: indexes shards and reads blocks of documents.

There are two passes. The first one reads every shard once, one worker per shard, and notes the row and a digest of
each document that is long enough: 24 bytes. Of equal documents the first one counts, in the order of the shards'
names. Then the number of documents is known, and each shard, and in it each block of at most `window` documents, gets
its part of the examples. The second pass reads those rows again, block by block. So the content of a block
depends on the shards and the config only, not on the workers or on where a step resumes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from stages.common.data.config import CorpusConfig, Source
from stages.common.data.corpora import distinct_sentences, document_digest, document_texts
from stages.common.data.text_shards import shard_files
from stages.common.errors import DataError
from stages.prompt_pretraining.formats import CorpusRequirements


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The documents of a shard."""

    shard: str
    num_rows: int
    num_read: int
    """Rows that are not empty."""
    rows: NDArray[np.int64]
    """[n] rows of the documents that are long enough."""
    digests: NDArray[np.bytes_]
    """[n] their digests, 16 bytes each."""


@dataclass(frozen=True, slots=True)
class ShardAllocation:
    """A shard and the examples to build from it."""

    shard: str
    is_used: bytes
    """One bit per row: 1 if its document is long enough and the first of its kind."""
    num_documents: int
    """Documents that are used."""
    example_range: range
    """Numbers of the examples, among those of all shards."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive documents of a shard."""

    shard: str
    number: int
    """Number of the block in the shard."""
    example_range: range
    """Numbers of the examples to build from it, among those of all shards."""
    texts: tuple[str, ...]
    """The documents."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The examples to build from each shard."""

    parts: tuple[ShardAllocation, ...]
    num_documents: int
    num_read: int
    num_duplicates: int
    small: tuple[str, ...]
    """Shards with documents, but too few of them for one example."""


def shard_indexer(config: CorpusConfig, min_sentences: int) -> Callable[[str], ShardIndex]:
    """Returns the function that finds the documents of a shard with at least `min_sentences` distinct sentences."""
    sources = _sources(config.source)

    def index(shard: str) -> ShardIndex:
        rows, digests = array("q"), bytearray()  # 24 bytes per document; lists would need four times as much
        num_rows = num_read = 0
        for text in document_texts(sources[shard]):
            num_rows += 1
            num_read += bool(text.strip())
            sentences = distinct_sentences(text, config.max_sentence_words)
            if len(sentences) >= min_sentences:
                rows.append(num_rows - 1)
                digests += document_digest(sentences)
        return ShardIndex(shard, num_rows, num_read, np.frombuffer(rows, np.int64), np.frombuffer(digests, "S16"))

    return index


def allocate_examples(
    indices: Iterable[ShardIndex], requirements: CorpusRequirements, num_required: int, purpose: str
) -> ShardPlan:
    """Distributes the examples among the shards, in proportion to their documents.

    Args:
        indices: Of all shards, in order.
        requirements: Documents that one example needs.
        num_required: Number of all examples.
        purpose: What the documents are for, for the message.

    Raises:
        DataError: no shard has enough documents.
    """
    shards = list(indices)
    _, first_indices = np.unique(np.concatenate([item.digests for item in shards]), return_index=True)
    is_first = np.zeros(sum(len(item.digests) for item in shards), dtype=bool)
    is_first[first_indices] = True
    ends = np.cumsum([len(item.digests) for item in shards])[:-1]
    is_used = dict(zip((item.shard for item in shards), np.split(is_first, ends), strict=True))
    counts = {name: int(mask.sum()) for name, mask in is_used.items()}
    num_documents = sum(count for count in counts.values() if count >= requirements.documents)
    num_read = sum(item.num_read for item in shards)
    if not num_documents:
        raise DataError(
            f"{purpose} needs a shard with {requirements.documents:,} documents of {requirements.sentences} different "
            f"sentences or more, but no shard has more than {max(counts.values()):,}; all shards have {num_read:,} "
            "documents, with duplicates.",
            "Make fewer and larger shards, use a corpus of more or longer documents, or lower max_sentence_words for "
            "more sentences.",
            key="corpus",
        )
    parts, first = [], 0
    for item in shards:
        count = counts[item.shard]
        if count < requirements.documents:
            continue
        example_range = range(first * num_required // num_documents, (first + count) * num_required // num_documents)
        first += count
        if example_range:
            mask = np.zeros(item.num_rows, dtype=bool)
            mask[item.rows[is_used[item.shard]]] = True
            parts.append(ShardAllocation(item.shard, np.packbits(mask).tobytes(), count, example_range))
    small = tuple(name for name, count in counts.items() if 0 < count < requirements.documents)
    return ShardPlan(tuple(parts), num_documents, num_read, len(is_first) - sum(counts.values()), small)


def blocks(config: CorpusConfig, min_documents: int, part: ShardAllocation) -> Iterator[Block]:
    """Yields the documents of a shard in blocks of about the same size: at most `window`, at least `min_documents`.

    Raises:
        DataError: the shard has fewer documents than before.
    """
    is_used = np.unpackbits(np.frombuffer(part.is_used, dtype=np.uint8))
    texts = (text for row, text in enumerate(document_texts(_sources(config.source)[part.shard])) if is_used[row])
    size, num_examples = part.num_documents, len(part.example_range)
    count = max(1, min(-(-size // config.window), size // min_documents))
    for number in range(count):
        start, stop = size * number // count, size * (number + 1) // count
        block_texts = tuple(islice(texts, stop - start))
        if len(block_texts) < stop - start:
            raise DataError(
                f"the shard {part.shard} had {size:,} documents, but {start + len(block_texts):,} are left.",
                "Do not change shards while they are read, and run again.",
            )
        if examples := part.example_range[start * num_examples // size : stop * num_examples // size]:
            yield Block(part.shard, number, examples, block_texts)


def _sources(source: Source) -> Mapping[str, Source]:
    """Returns the source of each shard, by name."""
    return {name: source.model_copy(update={"asset": str(path)}) for name, path in shard_files(source.asset).items()}
