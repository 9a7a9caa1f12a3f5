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
"""File endings of shards; other files of the folder, such as _SUCCESS, are skipped."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Consecutive examples of a shard. `first`: number of the first one."""

    shard: str
    first: int
    examples: tuple[Example, ...]


def shard_files(asset: str) -> dict[str, Path]:
    """Returns name of each shard -> its file, in the order of names.

    Args:
        asset: A folder, or a path with wildcards.

    Raises:
        DataError: there are no shards, or two shards have the same name.
    """
    folder = Path(asset).expanduser()
    if folder.is_dir():
        paths = [path for path in folder.iterdir() if path.name.endswith(ENDINGS) and path.name[0] not in "._"]
    else:
        glob = folder.absolute()
        paths = [path for path in Path(glob.anchor).glob(str(glob.relative_to(glob.anchor))) if path.is_file()]
    shards: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.name, path)):
        name = path.name.partition(".")[0]
        if name in shards:
            raise DataError(f"{shards[name]} and {path} would both become {name}.parquet.", "Rename one of them.")
        shards[name] = path.absolute()
    if not shards:
        raise DataError(f"{asset} matches no file.", f"Specify a folder with files that end in {', '.join(ENDINGS)}.")
    return shards


def shard_digests(asset: str) -> dict[str, str]:
    """Returns name of each shard -> digest of its content; empty if there are no shards."""
    try:
        return {name: f"sha256:{content_digest(path)}" for name, path in shard_files(asset).items()}
    except DataError:
        return {}


def count_examples(source: Source) -> dict[str, int]:
    """Returns name of each shard -> number of its examples; reads every row of every shard.

    Raises:
        DataError: a row is invalid (names file and line), or all shards are empty.
    """
    counts = {
        name: sum(1 for _ in stream_examples(_shard_source(source, path)))
        for name, path in shard_files(source.asset).items()
    }
    if not any(counts.values()):
        raise DataError(f"{source.asset} has no examples.", "Check filter, or specify other files.")
    return counts


def check_shards(source: Source, num_rows: int) -> None:
    """Reads the first rows of every shard.

    Raises:
        DataError: a row is invalid (names file and line), or there are no shards.
    """
    for path in shard_files(source.asset).values():
        for _ in islice(stream_examples(_shard_source(source, path)), num_rows):
            pass


def read_batches(source: Source, size: int, shard: str) -> Iterator[TextBatch]:
    """Yields the examples of a shard in batches of `size`, in order."""
    batch: list[Example] = []
    first = 0
    for example in stream_examples(_shard_source(source, shard_files(source.asset)[shard]), prefix=f"{shard}-"):
        batch.append(example)
        if len(batch) == size:
            yield TextBatch(shard, first, tuple(batch))
            first += size
            batch = []
    if batch:
        yield TextBatch(shard, first, tuple(batch))


def _shard_source(source: Source, path: Path) -> Source:
    return source.model_copy(update={"asset": str(path)})
