"""Steps of prompt pretraining: one prompt per format and, for a sharded corpus, a step before it that builds the
examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.steps.step import Step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import PptSection
from stages.common.assets.cache import identity
from stages.common.data import text_shards
from stages.common.seeds import derive_seed
from stages.prompt_pretraining.config import PretrainingConfig
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.formats import PretrainingFormat


def pretraining_steps(config: PipelineConfig) -> tuple[list[Step], list[Step]]:
    """The steps that build examples, and one step for each of `ppt.formats`, in their order."""
    if config.ppt is None:
        return [], []
    sharded = config.ppt.corpus.shards is not None
    before = [_examples(config, config.ppt, kind) for kind in config.ppt.formats] if sharded else []
    upstream = {kind: {"examples": step} for kind, step in zip(config.ppt.formats, before, strict=False)}
    return before, [_prompt(config, config.ppt, kind, upstream.get(kind, {})) for kind in config.ppt.formats]


def _examples(config: PipelineConfig, section: PptSection, kind: PretrainingFormat) -> Step:
    name = f"ppt_examples/{kind}"
    assert section.corpus.shards is not None
    labels = kind == "single" and not section.single.classifier
    backbone = {"backbone": identity(config.backbone.asset)} if labels else {}
    found = text_shards.shard_digests(section.corpus.source.asset)
    return Step(
        name=name,
        run="stages.prompt_pretraining.examples.stage:run",
        config=PretrainingExamplesConfig(
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


def _prompt(config: PipelineConfig, section: PptSection, kind: PretrainingFormat, inputs: Mapping[str, Step]) -> Step:
    name = f"ppt/{kind}"
    corpus = {} if inputs else {"corpus": identity(section.corpus.source.asset)}
    return Step(
        name=name,
        run="stages.prompt_pretraining.stage:run",
        config=PretrainingConfig(
            backbone=config.backbone,
            format=kind,
            corpus=section.corpus.reading,
            num_virtual_tokens=section.num_virtual_tokens,
            init=section.init,
            num_held_out=section.num_held_out,
            training=section.training,
            seed=derive_seed(config.seed, name),
            **_own(section, kind),
        ),
        inputs=inputs,
        assets={
            "backbone": identity(config.backbone.asset),
            **corpus,
            **_classifier(section, kind),
        },
        resources=section.resources,
    )


def _own(section: PptSection, kind: PretrainingFormat) -> dict[str, Any]:
    """Settings that only this format has, so that they leave the others alone."""
    if kind in ("choice", "unified"):
        return {"num_options": section.num_options(kind)}
    return {"single": section.single} if kind == "single" else {}


def _classifier(section: PptSection, kind: PretrainingFormat) -> dict[str, str]:
    """The asset that labels in the backbone's place, if there is one."""
    name = section.single.classifier
    return {"classifier": identity(name)} if kind == "single" and name else {}
