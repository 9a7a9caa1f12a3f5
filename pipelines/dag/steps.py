"""Makes the steps of a recipe: derives seeds, collects assets, and labels steps with the facts that others read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.steps.step import Resources, Step, Upstream
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig
from stages.common.assets.cache import identity, local_paths, with_commit
from stages.common.config import Config, asset_refs, with_asset_refs
from stages.common.data import text_shards
from stages.common.data.config import Source
from stages.common.seeds import derive_seed

LIGHTWEIGHT = Resources(cpus=0.5)
"""Resources of steps that compute very little."""

Inputs = Mapping[str, Step | Sequence[Step] | None]
"""Role -> upstream steps. None and empty sequences are left out."""


def make_step(
    recipe: PipelineConfig,
    name: str,
    *,
    kind: str,
    run: str,
    config: Config,
    inputs: Inputs | None = None,
    resources: Resources = LIGHTWEIGHT,
    shards: str = "",
    **labels: str,
) -> Step:
    """Makes one step of a recipe.

    Args:
        recipe: The recipe.
        name: Name of the step. If `config` has a seed that is not set, the seed is derived from this name and the
            recipe's seed.
        kind: Its kind, a key of `KINDS`.
        run: The function that it runs, as `module:function`.
        config: Its config. Every `AssetRef` in it becomes an asset of the step.
        inputs: Its upstream steps.
        resources: Its resources.
        shards: Dotted key of an asset in `config` that consists of shards. Each shard becomes an asset of its own, so
            that `explain` names the shards that changed.
        labels: Facts about the step; see pipelines/kinds.py.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of step.")
    if "seed" in type(config).model_fields.keys() - config.model_fields_set:
        config = config.model_copy(update={"seed": derive_seed(recipe.seed, name)})
    refs = asset_refs(config)
    datasets = _hub_datasets(config, refs)
    # Workers use the commit of the key, whatever the hub or the cache of another machine has.
    commits = {key: with_commit(ref, is_dataset=key in datasets) for key, ref in refs.items() if ref.startswith("hf:")}
    if commits:
        config, refs = with_asset_refs(config, commits), refs | commits
    assets: dict[str, str] = {}
    files: dict[str, str] = {}
    for key, ref in refs.items():
        if key == shards:
            digests = text_shards.shard_digests(ref)
            assets |= {f"{key}.{shard}": digest for shard, digest in digests.items()}
            if digests:
                files |= {str(path): digests[shard] for shard, path in text_shards.shard_files(ref).items()}
        else:
            assets[key] = identity(ref)
            if key not in datasets:  # the datasets library reads the commit in the reference
                files[ref] = assets[key]
                files |= {path: identity(path) for path in local_paths(ref) if path != ref}
    upstream: dict[str, Upstream] = {
        role: item if isinstance(item, Step) else tuple(item) for role, item in (inputs or {}).items() if item
    }
    return Step(
        name=name,
        run=run,
        config=config,
        inputs=upstream,
        assets=assets,
        files=files,
        resources=resources,
        kind=kind,
        labels=labels,
    )


def _hub_datasets(config: Config, refs: Mapping[str, str]) -> set[str]:
    """Returns the dotted keys of datasets of the hub: those of a source of data. All others are models."""
    on_hub = {key for key, ref in refs.items() if ref.startswith("hf:")}
    if not on_hub:
        return on_hub
    return on_hub - asset_refs(config, include=lambda model: not isinstance(model, Source)).keys()


def text_task(recipe: PipelineConfig) -> dict[str, Any]:
    """Returns what a stage that classifies texts without a pattern knows about the task."""
    return {
        "labels": recipe.task.labels,
        "problem_type": recipe.task.problem_type,
        "fields": recipe.task.fields,
        "class_weights": recipe.class_weights,
    }


def supervised_task(recipe: PipelineConfig, *, is_member: bool) -> dict[str, Any]:
    """Returns the same for a stage that trains on labeled examples only. The members of an ensemble have no bias."""
    has_bias = not (is_member and recipe.has_unlabeled)
    return {**text_task(recipe), "label_bias": recipe.label_bias if has_bias else "none"}
