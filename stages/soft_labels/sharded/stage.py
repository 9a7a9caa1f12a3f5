"""Labels unlabeled data of any size: the ensemble reads shard after shard, on all available workers.

Every member was trained, calibrated and weighted on sets of usual size. Here each worker loads all members once and
labels every example as the soft-label stage would. Completed shards are kept: an interrupted step continues with the
next one.
"""

from __future__ import annotations

import json
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
from stages.common.data.step_outputs import read_logits
from stages.common.data.text_shards import TextBatch
from stages.common.examples import Example
from stages.common.models.averaging import average_members, calibrate, member_weights
from stages.common.prompts.loader import ModelLoader
from stages.common.protocols import Engine, LogitModel, NullRecorder, Recorder
from stages.soft_labels.config import EnsembleConfig
from stages.soft_labels.sharded.config import ShardedLabelsConfig


@dataclass(slots=True)
class Ensemble:
    """All members, with what calibrates and weighs them."""

    members: Sequence[LogitModel]
    references: Sequence[NDArray[np.float64] | None]
    """Of each member its [m, C] logits on what calibrates it, or None."""
    weights: NDArray[np.float64]
    config: EnsembleConfig

    @classmethod
    def load(
        cls,
        config: EnsembleConfig,
        labels: Sequence[str],
        groups: Sequence[str],
        folders: Sequence[Path],
    ) -> Ensemble:
        """Loads every member.

        Args:
            config: How votes are mixed.
            labels: [C] labels, in the order of the logits.
            groups: [M] kind of each member, for balanced weights.
            folders: [M] files of the members.
        """
        about = [json.loads((folder / "result.json").read_text()) for folder in folders]
        file = {"none": "", "contextual": "content_free_logits", "unlabeled": "unlabeled_logits"}[config.calibration]
        loader = ModelLoader()
        return cls(
            [loader.load(folder) for folder in folders],
            [read_logits(folder / f"{file}.jsonl", labels).logits if file else None for folder in folders],
            member_weights(config.weights, [item["train_accuracy_before_training"] for item in about], groups),
            config,
        )

    def predict(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """[n, C] mixed logits, in the order of `examples`."""

        votes = []
        for member, reference in zip(self.members, self.references, strict=True):
            logits = member.predict(examples, NullRecorder(), "")
            votes.append(logits if reference is None else calibrate(logits, reference))
        return average_members(np.stack(votes), self.weights, self.config.average, self.config.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`members`: files of every member."""

    members: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How many texts were labelled, in how many shards, and how often each label was the likeliest.

    Files: `<shard>.parquet`, see stages/common/data/text_shards.py
    """

    num_texts: int
    num_shards: int
    label_counts: dict[str, int]


def run(config: ShardedLabelsConfig, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Labels every text of every shard.

    Raises:
        DataError: a row cannot be used; names file and line, before anything is labelled.
    """

    source = config.shards.source
    counts = {shard: count for shard, count in text_shards.count_examples(source).items() if count}
    folder = out if engine.checkpoint_dir is None else engine.checkpoint_dir / "shards"
    folder.mkdir(exist_ok=True)
    left = [shard for shard, count in counts.items() if not parquet_shards.is_done(folder, shard, count)]
    total = sum(counts.values())
    done = total - sum(counts[shard] for shard in left)
    read = partial(text_shards.read_batches, source, config.shards.batch_size)
    stream = engine.map_batches(left, read, partial(labeler, config, inputs))
    for num_rows in parquet_shards.write_shards(stream, counts, folder):
        done += num_rows
        recorder.log_progress(done, total, phase="shards")
    if folder != out:
        parquet_shards.publish_shards(folder, out)
    found = Counter(
        label for rows in parquet_shards.iter_rows(out, ["label"]) for label in rows.column("label").to_pylist()
    )
    for label in config.labels:
        recorder.log_metric(f"shards/{label}", found[label] / total)
    return Result(
        num_texts=total, num_shards=len(counts), label_counts={label: found[label] for label in config.labels}
    )


def labeler(config: ShardedLabelsConfig, inputs: Inputs) -> Callable[[TextBatch], Rows]:
    """What labels a batch; loads all members."""

    ensemble = Ensemble.load(config.ensemble, config.labels, config.groups, inputs.members)

    def label(batch: TextBatch) -> Rows:
        return labeled_rows(batch, ensemble.predict(batch.examples), config.labels)

    return label
