"""Plans a recipe: its steps, with the keys that its options ask for, compared with the store."""

from __future__ import annotations

from collections.abc import Collection

from cluster.steps.fingerprint import KeyOptions
from cluster.steps.plan import Plan, Selection, plan
from cluster.store.base import Store
from pipelines.dag import fewshot
from pipelines.schema.config import PipelineConfig

EXCLUDED_MODULES = (
    "pipelines.palette",
    "pipelines.report.leaderboard_plot",
    "stages.common.assets",
    "stages.common.figures",
    "stages.common.progress",
)
"""Modules that cannot change a result. They fetch files whose digests are in the key, draw plots or report progress."""


def key_options(config: PipelineConfig) -> KeyOptions:
    """Returns which code and versions are part of the keys of a recipe."""
    return KeyOptions(excluded_modules=EXCLUDED_MODULES, has_versions=config.resources.versions_in_key)


def plan_recipe(
    config: PipelineConfig, store: Store, selection: Selection | None = None, *, dropped: Collection[str] = ()
) -> Plan:
    """Plans all steps of a recipe, or those of `selection`.

    Args:
        config: The recipe.
        store: Where results are.
        selection: Which steps to plan. Default: all.
        dropped: Members that the ensemble does without.

    Raises:
        GraphError: a name of the selection matches no step.
        FingerprintError: the key of a step cannot be computed.
    """
    return plan(fewshot.build_steps(config, dropped), store, selection, key_options(config))
