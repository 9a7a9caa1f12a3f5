"""The stage that labels a pile of any size: the ensemble reads shard after shard, on as many workers as there are.

Every member has been trained, calibrated and weighed on sets of a usual size; here all of them are loaded once a worker
and say of every text what `soft_labels` would have said. A shard that is done stays done: a step that was killed goes
on with the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from stages.ensembles.voters import Voter
from stages.protocols import Engine, Recorder
from stages.soft_labels import EnsembleConfig
from stages.texts.data import Source
from stages.texts.row_shards import Rows
from stages.texts.shards import Batch


class ShardsConfig(BaseModel, frozen=True, extra="forbid"):
    """The shards of texts, and how they are read."""

    source: Source = Field(
        description="The shards: asset names a folder (its files that end in .parquet, .jsonl or .jsonl.gz) or a path "
        "with wildcards, alike on every machine."
    )
    batch_size: int = Field(256, ge=1, description="Texts that go to a worker at a time.")

    @field_validator("source")
    @classmethod
    def _is_read_whole(cls, source: Source) -> Source:
        if source.limit is not None or source.label is not None:
            raise ValueError("shards are read whole and without labels. Take limit and label out.")
        return source


class Config(BaseModel, frozen=True, extra="forbid"):
    """The ensemble and the shards that it labels."""

    labels: tuple[str, ...] = Field(description="Labels of the task, in the order of the logits.")
    ensemble: EnsembleConfig = Field(EnsembleConfig(), description="How votes are mixed.")
    voters: tuple[Voter, ...] = Field(description="The members, in the order of the inputs.")
    groups: tuple[str, ...] = Field(description="Kind of each member, for balanced weights.")
    shards: ShardsConfig = Field(description="The shards.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """`members`: files of every member; `words`: files of the verbalizer search, if words were searched for."""

    members: tuple[Path, ...]
    words: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How many texts were labelled, in how many shards, and how often each label was the likeliest.

    Files: `<shard>.parquet`, see stages/texts/shards.py.
    """

    num_texts: int
    num_shards: int
    label_counts: dict[str, int]


def run(config: Config, inputs: Inputs, out: Path, recorder: Recorder, engine: Engine) -> Result:
    """Labels every text of every shard.

    Raises:
        DataError: a row cannot be used; names file and line, before anything is labelled.
    """
    from stages.texts import row_shards, shards

    source = config.shards.source
    counts = {shard: count for shard, count in shards.num_texts(source).items() if count}
    folder = out if engine.work is None else engine.work / "shards"
    folder.mkdir(exist_ok=True)
    left = [shard for shard, count in counts.items() if not row_shards.is_done(folder, shard, count)]
    total = sum(counts.values())
    done = total - sum(counts[shard] for shard in left)
    read = partial(shards.read, source, config.shards.batch_size)
    stream = engine.stream(left, read, partial(labeller, config, inputs))
    for num_rows in row_shards.write(stream, counts, folder):
        done += num_rows
        recorder.progress(done, total, phase="shards")
    if folder != out:
        row_shards.hand_over(folder, out)
    found = Counter(label for rows in row_shards.rows(out, ["label"]) for label in rows.column("label").to_pylist())
    for label in config.labels:
        recorder.metric(f"shards/{label}", found[label] / total)
    return Result(
        num_texts=total, num_shards=len(counts), label_counts={label: found[label] for label in config.labels}
    )


def labeller(config: Config, inputs: Inputs) -> Callable[[Batch], Rows]:
    """What labels a batch; loads all members."""
    from stages.ensembles.voters import Ensemble
    from stages.texts.soft_shards import labelled

    ensemble = Ensemble.load(config.ensemble, config.labels, config.voters, config.groups, inputs.members, inputs.words)

    def label(batch: Batch) -> Rows:
        return labelled(batch, ensemble.predict(batch.examples), config.labels)

    return label
