"""Shards of soft labels: an example with its most likely label and its logits per row.

Rows are in the order of the examples. Columns: uid, label (the most likely), fields, logits by label. See
stages/common/data/parquet_shards.py for how shards are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from numpy.typing import NDArray

from stages.common.data.parquet_shards import Rows, iter_rows
from stages.common.data.text_shards import TextBatch
from stages.common.examples import Example
from stages.common.metrics.classification import softmax


def labeled_rows(batch: TextBatch, logits: NDArray[np.float64], labels: Sequence[str]) -> Rows:
    """Returns the rows of a batch with its logits, [n, C]."""
    values = logits.round(5)
    parts = {label: pyarrow.array(values[:, index]) for index, label in enumerate(labels)}
    fields = {name: [item.fields[name] for item in batch.examples] for name in batch.examples[0].fields}
    columns: dict[str, Any] = {
        "uid": [item.uid for item in batch.examples],
        "label": [labels[index] for index in values.argmax(axis=1)],
        "fields": pyarrow.StructArray.from_arrays([pyarrow.array(item) for item in fields.values()], list(fields)),
        "logits": pyarrow.StructArray.from_arrays(list(parts.values()), list(parts)),
    }
    return Rows(batch.shard, batch.first, pyarrow.table(columns))


class Confidences(NamedTuple):
    """The largest probability of every example, and the index of its label, [n] each: six bytes per example."""

    confidence: NDArray[np.float32]
    predicted: NDArray[np.int16]


def confidences(folder: Path, labels: Sequence[str]) -> Confidences:
    """Returns confidence and predicted label of every example of the shards in `folder`."""
    confidence, predicted = [], []
    for part in iter_rows(folder, ["logits"]):
        probabilities = softmax(_logits(part, labels))
        confidence.append(probabilities.max(axis=1).astype(np.float32))
        predicted.append(probabilities.argmax(axis=1).astype(np.int16))
    return Confidences(np.concatenate(confidence), np.concatenate(predicted))


class SoftLabeledExample(NamedTuple):
    """An example with its logits, [C]."""

    example: Example
    logits: tuple[float, ...]


def load_rows(folder: Path, indices: NDArray[np.int64], labels: Sequence[str]) -> Iterator[SoftLabeledExample]:
    """Yields some examples with their logits.

    Args:
        folder: The shards.
        indices: Numbers of the examples in the stream of all shards, in ascending order.
        labels: [C] labels, in the order of the logits.
    """
    first = 0
    for part in iter_rows(folder, ["uid", "fields", "logits"]):
        low, high = np.searchsorted(indices, [first, first + part.num_rows])
        chosen = part.take(indices[low:high] - first)
        logits = _logits(chosen, labels)
        for row, values in zip(chosen.select(["uid", "fields"]).to_pylist(), logits.tolist(), strict=True):
            yield SoftLabeledExample(Example(row["uid"], row["fields"]), tuple(values))
        first += part.num_rows


def _logits(part: pyarrow.RecordBatch, labels: Sequence[str]) -> NDArray[np.float64]:
    """Returns logits, [n, C]."""
    column = part.column("logits")
    return np.stack([column.field(label).to_numpy() for label in labels], axis=1)
