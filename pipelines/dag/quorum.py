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
    """Returns the members whose last attempt failed, if the members with a result are enough; else nothing.

    Args:
        config: The recipe.
        planned: The plan of all members.
        manifests: The results of all steps.
        store: Where failures are recorded.
    """
    if config.ensemble.min_members is None or "soft_labels" not in planned.steps:
        return ()
    members = [step.name for step in planned.steps["soft_labels"].upstream() if KINDS[step.kind].votes]
    finished = [name for name in members if name in manifests]
    failed = [
        name
        for name in members
        if name not in manifests and store.failure(name, planned.keys[name].fingerprint) is not None
    ]
    is_enough = len(finished) >= config.ensemble.min_members and len(finished) + len(failed) == len(members)
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
