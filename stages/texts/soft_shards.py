"""Shards of soft labels (see stages/texts/row_shards.py).

Rows stand in the order of their texts: uid, label (the likeliest), fields, logits by label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.measures.metrics import softmax
from stages.tasks import Example
from stages.texts.row_shards import Rows, rows
from stages.texts.shards import Batch

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from numpy.typing import NDArray


def labelled(batch: Batch, logits: NDArray[np.float64], labels: Sequence[str]) -> Rows:
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
    return Rows(batch.shard, batch.first, pyarrow.table(columns))


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
