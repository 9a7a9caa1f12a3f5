"""Steps of prompt pretraining: one prompt per format and, for a sharded corpus, a step before it that builds the
examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.steps.step import Step
from pipelines.dag.steps import make_step
from pipelines.schema.config import PipelineConfig
from pipelines.schema.sections.prompts import PptSection
from stages.common.data.config import CorpusConfig
from stages.prompt_pretraining.config import PretrainingConfig, SingleConfig
from stages.prompt_pretraining.examples.config import PretrainingExamplesConfig
from stages.prompt_pretraining.formats import PretrainingFormat


def pretraining_steps(config: PipelineConfig) -> tuple[list[Step], list[Step]]:
    """Returns the steps that build examples, and one step per format of `ppt.formats`, in this order."""
    ppt = config.ppt
    if ppt is None:
        return [], []
    examples = [_examples(config, ppt, kind) for kind in ppt.formats] if ppt.corpus.shards else []
    upstream: Sequence[Step | None] = examples or [None] * len(ppt.formats)
    return examples, [_prompt(config, ppt, kind, step) for kind, step in zip(ppt.formats, upstream, strict=True)]


def _examples(config: PipelineConfig, section: PptSection, kind: PretrainingFormat) -> Step:
    assert section.corpus.shards is not None
    needs_backbone = kind == "single" and not section.single.classifier
    return make_step(
        config,
        f"ppt_examples/{kind}",
        kind="ppt_examples",
        run="stages.prompt_pretraining.examples.stage:run",
        config=PretrainingExamplesConfig.of(
            section, **_settings_of(section, kind), backbone=config.backbone if needs_backbone else None
        ),
        resources=section.corpus.shards.resources,
        shards="corpus.source.asset",
        format=kind,
    )


def _prompt(config: PipelineConfig, section: PptSection, kind: PretrainingFormat, examples: Step | None) -> Step:
    return make_step(
        config,
        f"ppt/{kind}",
        kind="ppt",
        run="stages.prompt_pretraining.stage:run",
        config=PretrainingConfig.of(section, **_settings_of(section, kind), backbone=config.backbone),
        inputs={"examples": examples},
        resources=section.resources,
        shards="corpus.source.asset" if examples else "",
        format=kind,
    )


def _settings_of(section: PptSection, kind: PretrainingFormat) -> dict[str, Any]:
    """Settings of one format. Settings of other formats keep their defaults, so that changing them reruns nothing."""
    options = {"num_options": section.num_options(kind)} if kind in ("choice", "unified") else {}
    return {
        "format": kind,
        "corpus": CorpusConfig.of(section.corpus),
        "single": section.single if kind == "single" else SingleConfig(),
        **options,
    }
