"""Shards of rows in parquet files: written one by one, read as a stream.

A shard has a temporary name until all its rows are written, so a file with the final name is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import pyarrow
from pyarrow.parquet import ParquetFile, ParquetWriter, read_metadata

from stages.common.errors import DataError
from stages.common.examples import Example


def examples_of(folder: Path) -> list[Example]:
    """Returns all examples of the shards of a folder, in the order of the shards."""
    parts = (part.to_pylist() for part in iter_rows(folder, ["uid", "fields", "label"]))
    return [Example(row["uid"], row["fields"], row["label"]) for row in chain.from_iterable(parts)]


ROWS_AT_ONCE = 4096
"""Rows that are in memory at a time while shards are read."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a shard. `first`: number of the first row."""

    shard: str
    first: int
    rows: pyarrow.Table


def write_shards(stream: Iterable[Rows], counts: Mapping[str, int] | None, folder: Path) -> Iterator[int]:
    """Writes shards to `folder`; a shard gets its final name when all its rows are written.

    Args:
        stream: Rows, shard by shard.
        counts: Name of a shard -> expected number of rows. If None, any number is accepted.
        folder: Folder to write to.

    Yields:
        The number of rows in each item of the stream.

    Raises:
        DataError: a shard does not have the expected number of rows.
    """
    for shard, parts in groupby(stream, key=lambda item: item.shard):
        part, writer, num_rows = folder / f".{shard}.part", None, 0
        for item in parts:
            assert item.first == num_rows, f"{shard}: got row {item.first} instead of row {num_rows}"
            writer = writer or ParquetWriter(part, item.rows.schema)
            writer.write_table(item.rows)
            num_rows += item.rows.num_rows
            yield item.rows.num_rows
        assert writer is not None
        writer.close()
        if counts is not None and num_rows != counts[shard]:
            raise DataError(
                f"the shard {shard} has {num_rows:,} rows instead of {counts[shard]:,}.",
                "Do not change shards while they are read, and run again.",
            )
        _sync(part)
        part.rename(folder / f"{shard}.parquet")


def is_done(folder: Path, shard: str, num_rows: int) -> bool:
    """Returns True if the file of a shard exists with all its rows."""
    path = folder / f"{shard}.parquet"
    return path.exists() and int(read_metadata(path).num_rows) == num_rows


def publish_shards(folder: Path, out: Path) -> None:
    """Links the shards of a folder into another one, or copies them if the file system has no hard links."""
    for path in sorted(folder.glob("*.parquet")):
        try:
            os.link(path, out / path.name)
        except OSError:
            shutil.copy2(path, out / path.name)


def iter_rows(folder: Path, columns: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
    """Yields the rows of the shards of a folder, in the order of their names."""
    for path in sorted(folder.glob("*.parquet")):
        with ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=list(columns))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
