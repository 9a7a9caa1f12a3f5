"""The step that labels a pile too large for memory, by all members of the ensemble."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.step import Step
from pipelines.config import PipelineConfig
from pipelines.schema.sections import ShardsSection
from pipelines.steps.member_steps import group_of
from stages import pattern_training, probe, shard_labels
from stages.ensembles.voters import ProbeVoter, SubModelVoter
from stages.errors import DataError, InputError
from stages.texts import shards

ROWS_CHECKED = 100
"""Rows of each shard that are read before anything runs; the step reads all of them before it labels one."""


def check(config: PipelineConfig) -> None:
    """Reads the first rows of every shard.

    Raises:
        DataError: with the dotted place in the recipe as its key.
    """
    if config.shards is None:
        return
    source = config.shards.source
    missing = [name for name in config.task.fields if name not in source.fields]
    if missing:
        raise DataError(
            f"the patterns take the field {missing[0]!r}, which the shards do not have.",
            f"Add it ({missing[0]}: COLUMN), or use one of: {', '.join(source.fields)}.",
            key="shards.source.fields",
        )
    try:
        shards.check(source, ROWS_CHECKED)
    except InputError as error:
        raise error.at(key="shards.source") from error


def labelled_shards(config: PipelineConfig, section: ShardsSection, voting: tuple[Step, ...]) -> Step:
    """The step `shards`, which reads the files of all members, and the shards."""
    words: dict[str, Step] = {}
    for step in voting:
        found = step.inputs.get("words")
        if isinstance(found, Step):
            words[found.name] = found
    return Step(
        name="shards",
        run="stages.shard_labels:run",
        config=shard_labels.Config(
            labels=config.task.labels,
            ensemble=config.ensemble.mixing,
            voters=tuple(_voter(step, list(words)) for step in voting),
            groups=tuple(group_of(step.name) for step in voting),
            shards=section.reading,
        ),
        inputs={"members": voting, **({"words": tuple(words.values())} if words else {})},
        assets={f"shards.{name}": digest for name, digest in shards.identities(section.source.asset).items()},
        resources=section.resources,
    )


def _voter(step: Step, words: Sequence[str]) -> SubModelVoter | ProbeVoter:
    """How a member is loaded, from the step that trains it."""
    settings = step.config
    if isinstance(settings, probe.Config):
        return ProbeVoter(encoder=settings.encoder)
    assert isinstance(settings, pattern_training.Config)
    found = step.inputs.get("words")
    place = words.index(found.name) if isinstance(found, Step) else None
    return SubModelVoter(task=settings.task, pattern=settings.pattern, backbone=settings.backbone, words=place)
