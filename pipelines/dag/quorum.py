"""Continues without failed members if `ensemble.min_members` allows it.

Without that key a missing member is an error: every step that needs the ensemble is blocked. With it, the config of the
ensemble's step lists the dropped members. Its fingerprint and the report therefore show them, and the next run retries
them.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.run.result import RunResult, Status
from cluster.steps.plan import Plan
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig


def dropped_members(
    config: PipelineConfig, planned: Plan, manifests: Mapping[str, Manifest], store: Store
) -> tuple[str, ...]:
    """Returns the members whose last attempt failed, if enough members have a result; else none.

    Args:
        config: The recipe.
        planned: The plan of all its steps.
        manifests: The results of its steps.
        store: The store with the failures.
    """
    if config.ensemble.min_members is None:
        return ()
    ensembles = [step for step in planned.steps.values() if step.kind == "soft_labels"]
    members = {item.name for step in ensembles for item in step.upstream() if KINDS[item.kind].votes}
    failed = [
        name
        for name in planned.steps
        if name in members - manifests.keys() and store.failure(name, planned.keys[name].fingerprint) is not None
    ]
    num_finished = len(members & manifests.keys())
    is_enough = num_finished >= config.ensemble.min_members and num_finished + len(failed) == len(members)
    return tuple(failed) if is_enough else ()


def merge_results(first: RunResult, second: RunResult) -> RunResult:
    """Merges two results: of the run in which members failed, and of the run that continued without them."""
    steps = {name: report for name, report in first.steps.items() if report.status in (Status.EXECUTED, Status.CACHED)}
    return RunResult(
        steps=steps | second.steps,
        errors=second.errors,
        wall_s=first.wall_s + second.wall_s,
        signal=second.signal,
    )
