"""Shards of soft labels: parquet, written one by one, and read as a stream.

Rows stand in the order of their texts: uid, label (the likeliest), fields, logits by label. A shard has another name
until all its rows are there, so that a name that is there is a shard that is done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import DataError
from stages.measures.metrics import softmax
from stages.tasks import Example
from stages.texts.shards import Batch

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from numpy.typing import NDArray

ROWS_AT_ONCE = 4096
"""Rows that are held while shards are read."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The rows that a batch became; the first is number `first` of its shard."""

    shard: str
    first: int
    rows: pyarrow.Table


def labelled(batch: Batch, logits: NDArray[np.float64], labels: Sequence[str]) -> Labelled:
    """The rows of a batch with its [n, C] logits."""
    import pyarrow

    values = logits.round(5)
    parts = {label: pyarrow.array(values[:, place]) for place, label in enumerate(labels)}
    fields = {name: [item.fields[name] for item in batch.examples] for name in batch.examples[0].fields}
    columns: dict[str, Any] = {
        "uid": [item.uid for item in batch.examples],
        "label": [labels[place] for place in values.argmax(axis=1)],
        "fields": pyarrow.StructArray.from_arrays([pyarrow.array(item) for item in fields.values()], list(fields)),
        "logits": pyarrow.StructArray.from_arrays(list(parts.values()), list(parts)),
    }
    return Labelled(batch.shard, batch.first, pyarrow.table(columns))


def write(stream: Iterable[Labelled], counts: Mapping[str, int], folder: Path) -> Iterator[int]:
    """Writes shards to `folder`, and gives each its name when all its rows are there.

    Args:
        stream: Rows of one shard after the other.
        counts: Name of a shard -> how many texts it holds.
        folder: Where the files go.

    Yields:
        How many rows came, each time that some came.

    Raises:
        DataError: a shard has another number of texts than it had.
    """
    from pyarrow.parquet import ParquetWriter

    for shard, parts in groupby(stream, key=lambda item: item.shard):
        part, writer, num_rows = folder / f".{shard}.part", None, 0
        for item in parts:
            assert item.first == num_rows, f"{shard}: row {item.first} came in the place of row {num_rows}"
            writer = writer or ParquetWriter(part, item.rows.schema)
            writer.write_table(item.rows)
            num_rows += item.rows.num_rows
            yield item.rows.num_rows
        assert writer is not None
        writer.close()
        if num_rows != counts[shard]:
            raise DataError(
                f"the shard {shard} had {counts[shard]:,} texts, and {num_rows:,} were labelled.",
                "Leave shards as they are while they are read, and run again.",
            )
        _sync(part)
        part.rename(folder / f"{shard}.parquet")


def is_done(folder: Path, shard: str, num_rows: int) -> bool:
    """Whether a labelled shard is there with all its rows."""
    from pyarrow.parquet import read_metadata

    path = folder / f"{shard}.parquet"
    return path.exists() and int(read_metadata(path).num_rows) == num_rows


def hand_over(folder: Path, out: Path) -> None:
    """Puts the labelled shards of a folder into another; no byte is copied where the file system has links."""
    for path in sorted(folder.glob("*.parquet")):
        try:
            os.link(path, out / path.name)
        except OSError:
            shutil.copy2(path, out / path.name)


def rows(folder: Path, columns: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
    """The shards of a folder as one stream of rows, in the order of their names."""
    from pyarrow.parquet import ParquetFile

    for path in sorted(folder.glob("*.parquet")):
        with ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=list(columns))


def confidences(folder: Path, labels: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """[n] top probability of every text, and [n] place of its likeliest label: six bytes a text."""
    import numpy as np

    confidence, guess = [], []
    for part in rows(folder, ["logits"]):
        probabilities = softmax(_logits(part, labels))
        confidence.append(probabilities.max(axis=1).astype(np.float32))
        guess.append(probabilities.argmax(axis=1).astype(np.int16))
    return np.concatenate(confidence), np.concatenate(guess)


def taken(
    folder: Path, wanted: NDArray[np.int64], labels: Sequence[str]
) -> Iterator[tuple[Example, tuple[float, ...]]]:
    """Some texts with their logits [C].

    Args:
        folder: The shards.
        wanted: Numbers of the texts in the stream of all shards, in order.
        labels: [C] labels, in the order of the logits.
    """
    import numpy as np

    first = 0
    for part in rows(folder, ["uid", "fields", "logits"]):
        low, high = np.searchsorted(wanted, [first, first + part.num_rows])
        chosen = part.take(wanted[low:high] - first)
        logits = _logits(chosen, labels)
        for row, values in zip(chosen.select(["uid", "fields"]).to_pylist(), logits.tolist(), strict=True):
            yield Example(row["uid"], row["fields"]), tuple(values)
        first += part.num_rows


def _logits(part: pyarrow.RecordBatch, labels: Sequence[str]) -> NDArray[np.float64]:
    """[n, C] logits."""
    import numpy as np

    column = part.column("logits")
    return np.stack([column.field(label).to_numpy() for label in labels], axis=1)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
