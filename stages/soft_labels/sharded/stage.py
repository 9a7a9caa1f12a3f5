"""Labels unlabeled data of any size: the ensemble reads shard after shard, on all available workers.

Every member was trained, calibrated and weighted on sets of usual size. Here each worker loads all members once and
labels every example as the soft-label stage would. Completed shards are kept: an interrupted step continues with the
next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.common.data import parquet_shards, text_shards
from stages.common.data.parquet_shards import Rows
from stages.common.data.soft_label_shards import labeled_rows
from stages.common.data.text_shards import TextBatch
from stages.common.examples import Example
from stages.common.prompts.loader import ModelLoader
from stages.common.protocols import Engine, LogitModel, NullRecorder, Recorder
from stages.soft_labels.combination import Combination
from stages.soft_labels.sharded.config import ShardedLabelsConfig


@dataclass(frozen=True, slots=True)
class Ensemble:
    """All members, and how their logits are combined."""

    members: Sequence[LogitModel]
    combination: Combination

    @classmethod
    def load(cls, config: ShardedLabelsConfig, folders: Sequence[Path]) -> Ensemble:
        """Loads every member. `folders`: [M] files of the members."""
        loader = ModelLoader()
        return cls([loader.load(folder) for folder in folders], Combination.fit(config, folders))

    def predict(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Returns averaged logits [n, C], in the order of `examples`."""
        return self.combination([member.predict(examples, NullRecorder(), "") for member in self.members])


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`members`: files of every member."""

    members: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Number of labeled examples and of shards, and how often each label was predicted.

    Files: `<shard>.parquet` (stages/common/data/soft_label_shards.py).
    """

    num_texts: int
    num_shards: int
    label_counts: dict[str, int]


def run(config: ShardedLabelsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Labels every example of every shard.

    Raises:
        DataError: a row cannot be used; names file and line, before anything is labeled.
    """
    source = config.shards.source
    counts = {shard: count for shard, count in text_shards.count_examples(source).items() if count}
    folder = out if engine.checkpoint_dir is None else engine.checkpoint_dir / "shards"
    folder.mkdir(exist_ok=True)
    left = [shard for shard, count in counts.items() if not parquet_shards.is_done(folder, shard, count)]
    num_examples = sum(counts.values())
    num_done = num_examples - sum(counts[shard] for shard in left)
    read = partial(text_shards.read_batches, source, config.shards.batch_size)
    stream = engine.map_batches(left, read, partial(labeler, config, inputs))
    for num_rows in parquet_shards.write_shards(stream, counts, folder):
        num_done += num_rows
        recorder.log_progress(num_done, num_examples, phase="shards")
    if folder != out:
        parquet_shards.publish_shards(folder, out)
    batches = parquet_shards.iter_rows(out, ["label"])
    label_counts = Counter(label for rows in batches for label in rows.column("label").to_pylist())
    for label in config.labels:
        recorder.log_metric(f"shards/{label}", label_counts[label] / num_examples)
    return Result(
        num_texts=num_examples,
        num_shards=len(counts),
        label_counts={label: label_counts[label] for label in config.labels},
    )


def labeler(config: ShardedLabelsConfig, inputs: Inputs) -> Callable[[TextBatch], Rows]:
    """Loads all members; returns the function that labels a batch."""
    ensemble = Ensemble.load(config, inputs.members)

    def label(batch: TextBatch) -> Rows:
        return labeled_rows(batch, ensemble.predict(batch.examples), config.labels)

    return label
