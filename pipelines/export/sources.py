"""The models and data that a classifier comes from, with their licenses: those of its step and of all upstream steps.

So the models of its teachers are among them, and models that only other steps use are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.redaction import redact
from cluster.steps.plan import Plan
from cluster.steps.step import Step, ancestors
from pipelines.default_models import find_model_asset
from pipelines.schema.config import PipelineConfig
from stages.common.assets.licenses import stated_license
from stages.common.assets.references import Asset
from stages.common.config import Config, asset_refs
from stages.common.data.config import Source
from stages.common.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """A model or data set.

    Args:
        key: Where the recipe names it, such as `data.pool`.
        kind: What it is.
        name: Its name for readers. Of a local file, the name without its folder.
        license: Its license; None if it is unknown.
        steps: The steps that read it.
    """

    key: str
    kind: Literal["model", "data"]
    name: str
    license: str | None
    steps: tuple[str, ...]


def find_sources(config: PipelineConfig, planned: Plan, step: Step, licenses: Mapping[str, str]) -> list[ModelSource]:
    """Returns the sources of a step, models first.

    Args:
        config: The recipe.
        planned: The plan of its steps.
        step: The step of the classifier.
        licenses: Key of the recipe -> license that the user states. It has priority.

    Raises:
        InputError: a key is not one of a source.
    """
    steps_by_ref: dict[str, list[str]] = {}
    data: set[str] = set()
    for name in planned.steps:
        if name in ancestors(planned.steps, [step.name]) and isinstance(item := planned.steps[name].config, Config):
            refs = set(asset_refs(item).values())
            data |= refs - set(asset_refs(item, include=lambda model: not isinstance(model, Source)).values())
            for ref in sorted(refs):
                steps_by_ref.setdefault(ref, []).append(name)
    keys = {ref: key.removesuffix(".asset") for key, ref in reversed(asset_refs(config).items())}
    known = sorted({keys.get(ref, ref) for ref in steps_by_ref})
    for key in licenses:
        if key not in known:
            raise InputError(
                f"{key!r} is no model or data set of {step.name}.", f"Use one of: {', '.join(known)}.", key="--license"
            )
    sources = [
        ModelSource(
            key=keys.get(ref, ref),
            kind="data" if ref in data else "model",
            name=_name(ref),
            license=licenses.get(keys.get(ref, ref)) or _license(ref),
            steps=tuple(steps),
        )
        for ref, steps in steps_by_ref.items()
    ]
    return sorted(sources, key=lambda item: (item.kind == "data", item.key))


def _license(ref: str) -> str | None:
    model = find_model_asset(ref)
    return model.license if model else stated_license(ref)


def _name(ref: str) -> str:
    model = find_model_asset(ref)
    if model:
        return model.hub
    return Path(ref).name if Asset.parse(ref).scheme == "path" else redact(ref.partition("#sha256=")[0])
