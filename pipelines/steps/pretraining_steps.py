"""The steps of prompt pretraining: a prompt for each format, and, of a corpus in shards, its examples before it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.step import Step
from pipelines.config import PipelineConfig
from pipelines.schema.sections import PptSection
from stages import pretraining_examples, prompt_pretraining
from stages.errors import DataError, InputError
from stages.pretraining.formats import Format
from stages.seeds import derive_seed
from stages.texts import assets, shards
from stages.texts.corpora import document_texts

ROWS_CHECKED = 100
"""Rows of each shard that are read before anything runs; the step reads all of them before it builds anything."""


def check_shards(ppt: PptSection) -> None:
    """Reads the first rows of every shard of the corpus, where shards are asked for.

    Raises:
        DataError: there is no folder, no shard, or a row without the column; with its place in the recipe as its key.
    """
    if ppt.corpus.shards is None:
        return
    source = ppt.corpus.source
    if not Path(source.asset).expanduser().is_dir():
        raise DataError(
            f"{source.asset} is no folder, and shards are the files of one.",
            f"Name a folder with files that end in {', '.join(shards.ENDINGS)}; or take shards out.",
            key="ppt.corpus.source.asset",
        )
    try:
        for path in shards.files(source.asset).values():
            for _ in islice(document_texts(source.model_copy(update={"asset": str(path)})), ROWS_CHECKED):
                pass
    except InputError as error:
        raise error.at(key="ppt.corpus.source") from error


def pretraining(config: PipelineConfig) -> tuple[list[Step], list[Step]]:
    """The steps that build examples, and one step for each of `ppt.formats`, in their order."""
    if config.ppt is None:
        return [], []
    sharded = config.ppt.corpus.shards is not None
    before = [_examples(config, config.ppt, kind) for kind in config.ppt.formats] if sharded else []
    upstream = {kind: {"examples": step} for kind, step in zip(config.ppt.formats, before, strict=False)}
    return before, [_prompt(config, config.ppt, kind, upstream.get(kind, {})) for kind in config.ppt.formats]


def _examples(config: PipelineConfig, section: PptSection, kind: Format) -> Step:
    name = f"ppt_examples/{kind}"
    assert section.corpus.shards is not None
    labels = kind == "single" and not section.single.classifier
    backbone = {"backbone": assets.identity(config.backbone.asset)} if labels else {}
    found = shards.identities(section.corpus.source.asset)
    return Step(
        name=name,
        run="stages.pretraining_examples:run",
        config=pretraining_examples.Config(
            format=kind,
            backbone=config.backbone if labels else None,
            corpus=section.corpus.reading,
            num_held_out=section.num_held_out,
            seed=derive_seed(config.seed, name),
            **_own(section, kind),
        ),
        assets={**{f"corpus.{shard}": digest for shard, digest in found.items()}, **backbone,
                **_classifier(section, kind)},
        resources=section.corpus.shards.resources,
    )  # fmt: skip


def _prompt(config: PipelineConfig, section: PptSection, kind: Format, inputs: Mapping[str, Step]) -> Step:
    name = f"ppt/{kind}"
    corpus = {} if inputs else {"corpus": assets.identity(section.corpus.source.asset)}
    return Step(
        name=name,
        run="stages.prompt_pretraining:run",
        config=prompt_pretraining.Config(
            backbone=config.backbone,
            format=kind,
            corpus=section.corpus.reading,
            num_vectors=section.num_vectors,
            start=section.start,
            num_held_out=section.num_held_out,
            loop=section.loop,
            seed=derive_seed(config.seed, name),
            **_own(section, kind),
        ),
        inputs=inputs,
        assets={
            "backbone": assets.identity(config.backbone.asset),
            **corpus,
            **_classifier(section, kind),
        },
        resources=section.resources,
    )


def _own(section: PptSection, kind: Format) -> dict[str, Any]:
    """Settings that only this format has, so that they leave the others alone."""
    if kind in ("choice", "unified"):
        return {"num_options": section.num_options(kind)}
    return {"single": section.single} if kind == "single" else {}


def _classifier(section: PptSection, kind: Format) -> dict[str, str]:
    """The asset that labels in the backbone's place, if there is one."""
    name = section.single.classifier
    return {"classifier": assets.identity(name)} if kind == "single" and name else {}
