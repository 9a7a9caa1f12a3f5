"""Continues without failed members if `ensemble.min_members` allows it.

Without that key a missing member is an error: every step that needs the ensemble is blocked. With it, the config of the
ensemble's step lists the dropped members. Its fingerprint and the report therefore show them, and the next run retries
them.
"""

from __future__ import annotations

from cluster.run.result import RunResult, Status
from cluster.steps.plan import plan
from cluster.store.base import Store
from pipelines.dag import fewshot
from pipelines.kinds import KINDS
from pipelines.schema.config import PipelineConfig


def dropped_members(config: PipelineConfig, store: Store) -> tuple[str, ...]:
    """Returns the members whose last attempt failed, if enough members have a result; else none.

    Args:
        config: The recipe.
        store: The store with results and failures.
    """
    if config.ensemble.min_members is None:
        return ()
    planned_steps = plan(fewshot.build_steps(config), store)
    upstream = {step.name for item in planned_steps if item.step.kind == "soft_labels" for step in item.step.upstream()}
    members = [item for item in planned_steps if item.name in upstream and KINDS[item.step.kind].votes]
    finished = [item.name for item in members if item.manifest is not None]
    failed = [
        item.name
        for item in members
        if item.manifest is None and store.failure(item.name, item.fingerprint) is not None
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
