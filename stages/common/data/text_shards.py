"""Unlabeled data that is too large for memory: shards of examples, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stages.common.assets.cache import content_digest
from stages.common.data.config import Source
from stages.common.data.sources import stream_examples
from stages.common.errors import DataError
from stages.common.examples import Example

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz")
"""Files of a folder that count as shards; others, such as a _SUCCESS, are passed over."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts that stand one behind the other in a shard; the first is number `first`."""

    shard: str
    first: int
    examples: tuple[Example, ...]


def shard_files(asset: str) -> dict[str, Path]:
    """Name of each shard -> its file, in the order of names.

    Args:
        asset: A folder, or a path with wildcards.

    Raises:
        DataError: there is none, or two of them would have the same name.
    """
    place = Path(asset).expanduser()
    if place.is_dir():
        found = [item for item in place.iterdir() if item.name.endswith(ENDINGS) and item.name[0] not in "._"]
    else:
        place = place.absolute()
        found = [item for item in Path(place.anchor).glob(str(place.relative_to(place.anchor))) if item.is_file()]
    shards: dict[str, Path] = {}
    for path in sorted(found, key=lambda item: (item.name, item)):
        name = path.name.partition(".")[0]
        if name in shards:
            raise DataError(
                f"{shards[name]} and {path} would both become {name}.parquet.", "Give one of them another name."
            )
        shards[name] = path.absolute()
    if not shards:
        raise DataError(f"{asset} matches no file.", f"Name a folder with files that end in {', '.join(ENDINGS)}.")
    return shards


def shard_digests(asset: str) -> dict[str, str]:
    """Name of each shard -> digest of its content; empty where there is none."""
    try:
        return {name: f"sha256:{content_digest(path)}" for name, path in shard_files(asset).items()}
    except DataError:
        return {}


def count_examples(source: Source) -> dict[str, int]:
    """Name of each shard -> how many texts it holds; every row of every shard is read.

    Raises:
        DataError: a row cannot be used; names file and line. Or no shard holds a text.
    """
    found = {
        name: sum(1 for _ in stream_examples(_one(source, path))) for name, path in shard_files(source.asset).items()
    }
    if not any(found.values()):
        raise DataError(f"{source.asset} holds no example.", "Check keep:, or name other files.")
    return found


def check_shards(source: Source, num_rows: int) -> None:
    """Reads the first rows of every shard.

    Raises:
        DataError: one of them cannot be used; names file and line. Or there is no shard.
    """
    for path in shard_files(source.asset).values():
        for _ in islice(stream_examples(_one(source, path)), num_rows):
            pass


def read_batches(source: Source, size: int, shard: str) -> Iterator[TextBatch]:
    """A shard's texts in batches of `size`, in order."""
    held: list[Example] = []
    first = 0
    for example in stream_examples(_one(source, shard_files(source.asset)[shard]), prefix=f"{shard}-"):
        held.append(example)
        if len(held) == size:
            yield TextBatch(shard, first, tuple(held))
            first += size
            held = []
    if held:
        yield TextBatch(shard, first, tuple(held))


def _one(source: Source, path: Path) -> Source:
    return source.model_copy(update={"asset": str(path)})
