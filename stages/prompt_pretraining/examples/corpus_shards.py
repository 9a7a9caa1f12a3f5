"""A corpus in shards, from which many workers build examples: indexes shards and reads blocks of documents.

There are two passes. The first one reads every shard once, one worker per shard, and notes the row and a digest of
each document that is long enough: 24 bytes. Of equal documents the first one counts, in the order of the shards'
names. Then the number of documents is known, and each shard, and in it each block of about `window` documents at most,
gets its part of the examples. The second pass reads those rows again, block by block. So the content of a block
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
    """What a shard holds.

    Args:
        shard: Its name.
        num_rows: Its rows.
        num_read: Those that are not empty.
        places: [n] rows of the documents that are long enough.
        digests: [n] digests of these, 16 bytes each.
    """

    shard: str
    num_rows: int
    num_read: int
    places: NDArray[np.int64]
    digests: NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class ShardAllocation:
    """A shard, and what is to be made of it.

    Args:
        shard: Its name.
        kept: A bit for each row: whether its document is long enough and the first of its kind.
        num_documents: How many are kept.
        wanted: Numbers of what is to be made, among those of all shards.
    """

    shard: str
    kept: bytes
    num_documents: int
    example_range: range


@dataclass(frozen=True, slots=True)
class Block:
    """Documents that stand one behind the other in a shard.

    Args:
        shard: The shard.
        number: Number of the block in it.
        wanted: Numbers of what is to be made of them, among what is made of all shards.
        texts: The documents.
    """

    shard: str
    number: int
    example_range: range
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What is made of which shard. `small`: shards that have documents, but too few of them for any example."""

    parts: tuple[ShardAllocation, ...]
    num_documents: int
    num_read: int
    num_duplicates: int
    small: tuple[str, ...]


def shard_indexer(config: CorpusConfig, min_sentences: int) -> Callable[[str], ShardIndex]:
    """What looks through a shard for documents of `min_sentences` distinct sentences or more."""
    sources = _sources(config.source)

    def look(shard: str) -> ShardIndex:

        places, digests = array("q"), bytearray()  # 24 bytes a document; lists would be four times as large
        num_rows = num_read = 0
        for text in document_texts(sources[shard]):
            num_rows += 1
            num_read += bool(text.strip())
            sentences = distinct_sentences(text, config.max_sentence_words)
            if len(sentences) >= min_sentences:
                places.append(num_rows - 1)
                digests += document_digest(sentences)
        return ShardIndex(shard, num_rows, num_read, np.frombuffer(places, np.int64), np.frombuffer(digests, "S16"))

    return look


def allocate_examples(
    surveys: Iterable[ShardIndex], need: CorpusRequirements, num_required: int, purpose: str
) -> ShardPlan:
    """Shares out what is to be made among the shards, by their documents.

    Args:
        surveys: Of all shards, in order.
        need: Documents that one example takes.
        num_required: How much is to be made in all.
        purpose: What needs the documents, for the message.

    Raises:
        DataError: no shard has documents enough.
    """

    found = list(surveys)
    _, places = np.unique(np.concatenate([item.digests for item in found]), return_index=True)
    is_first = np.zeros(sum(len(item.digests) for item in found), dtype=bool)
    is_first[places] = True
    ends = np.cumsum([len(item.digests) for item in found])[:-1]
    kept = dict(zip((item.shard for item in found), np.split(is_first, ends), strict=True))
    counts = {name: int(mask.sum()) for name, mask in kept.items()}
    total = sum(count for count in counts.values() if count >= need.documents)
    num_read = sum(item.num_read for item in found)
    if not total:
        raise DataError(
            f"no shard has {need.documents:,} documents of {need.sentences} different sentences or more, which "
            f"{purpose} needs; the fullest has {max(counts.values()):,}, and all of them have {num_read:,} in all, "
            "duplicates included.",
            "Make fewer and larger shards, name a corpus of more or longer documents, or lower sentence_words, which "
            "cuts text into more sentences.",
            key="corpus",
        )
    parts, first = [], 0
    for item in found:
        count = counts[item.shard]
        if count < need.documents:
            continue
        wanted = range(first * num_required // total, (first + count) * num_required // total)
        first += count
        if wanted:
            rows = np.zeros(item.num_rows, dtype=bool)
            rows[item.places[kept[item.shard]]] = True
            parts.append(ShardAllocation(item.shard, np.packbits(rows).tobytes(), count, wanted))
    small = tuple(name for name, count in counts.items() if 0 < count < need.documents)
    return ShardPlan(tuple(parts), total, num_read, len(is_first) - sum(counts.values()), small)


def blocks(config: CorpusConfig, fewest: int, part: ShardAllocation) -> Iterator[Block]:
    """The documents of a shard in blocks of about the same size: `window` at the most, but not below `fewest`.

    Raises:
        DataError: the shard has fewer documents than it had.
    """

    kept = np.unpackbits(np.frombuffer(part.kept, dtype=np.uint8))
    texts = (text for row, text in enumerate(document_texts(_sources(config.source)[part.shard])) if kept[row])
    size, num_wanted = part.num_documents, len(part.example_range)
    count = max(1, min(-(-size // config.window), size // fewest))
    for number in range(count):
        start, stop = size * number // count, size * (number + 1) // count
        held = tuple(islice(texts, stop - start))
        if len(held) < stop - start:
            raise DataError(
                f"the shard {part.shard} had {size:,} documents, and {start + len(held):,} are left.",
                "Leave shards as they are while they are read, and run again.",
            )
        if wanted := part.example_range[start * num_wanted // size : stop * num_wanted // size]:
            yield Block(part.shard, number, wanted, held)


def _sources(source: Source) -> Mapping[str, Source]:
    """Name of each shard -> its file."""
    return {name: source.model_copy(update={"asset": str(path)}) for name, path in shard_files(source.asset).items()}
