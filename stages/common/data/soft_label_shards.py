"""Shards of soft labels: an example with its most likely label and its logits per row.

Rows are in the order of the examples. Columns: uid, label (the most likely), fields, logits by label. See
stages/common/data/parquet_shards.py for how shards are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from stages.common.data.parquet_shards import Rows, iter_rows
from stages.common.data.text_shards import TextBatch
from stages.common.examples import Example
from stages.common.metrics.classification import softmax


def labeled_rows(batch: TextBatch, logits: NDArray[np.float64], labels: Sequence[str]) -> Rows:
    """The rows of a batch with its [n, C] logits."""

    values = logits.round(5)
    parts = {label: pyarrow.array(values[:, place]) for place, label in enumerate(labels)}
    fields = {name: [item.fields[name] for item in batch.examples] for name in batch.examples[0].fields}
    columns: dict[str, Any] = {
        "uid": [item.uid for item in batch.examples],
        "label": [labels[place] for place in values.argmax(axis=1)],
        "fields": pyarrow.StructArray.from_arrays([pyarrow.array(item) for item in fields.values()], list(fields)),
        "logits": pyarrow.StructArray.from_arrays(list(parts.values()), list(parts)),
    }
    return Rows(batch.shard, batch.first, pyarrow.table(columns))


def confidences(folder: Path, labels: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """[n] top probability of every text, and [n] place of its likeliest label: six bytes a text."""

    confidence, guess = [], []
    for part in iter_rows(folder, ["logits"]):
        probabilities = softmax(_logits(part, labels))
        confidence.append(probabilities.max(axis=1).astype(np.float32))
        guess.append(probabilities.argmax(axis=1).astype(np.int16))
    return np.concatenate(confidence), np.concatenate(guess)


def load_rows(
    folder: Path, indices: NDArray[np.int64], labels: Sequence[str]
) -> Iterator[tuple[Example, tuple[float, ...]]]:
    """Some texts with their logits [C].

    Args:
        folder: The shards.
        indices: Numbers of the texts in the stream of all shards, in order.
        labels: [C] labels, in the order of the logits.
    """

    first = 0
    for part in iter_rows(folder, ["uid", "fields", "logits"]):
        low, high = np.searchsorted(indices, [first, first + part.num_rows])
        chosen = part.take(indices[low:high] - first)
        logits = _logits(chosen, labels)
        for row, values in zip(chosen.select(["uid", "fields"]).to_pylist(), logits.tolist(), strict=True):
            yield Example(row["uid"], row["fields"]), tuple(values)
        first += part.num_rows


def _logits(part: pyarrow.RecordBatch, labels: Sequence[str]) -> NDArray[np.float64]:
    """[n, C] logits."""

    column = part.column("logits")
    return np.stack([column.field(label).to_numpy() for label in labels], axis=1)
