"""Continues without failed members if `ensemble.min_members` allows it.

Without that key a missing member is an error: every step that needs the ensemble is blocked. With it, the ensemble's
step lists the dropped members. Its fingerprint and the report therefore show them, and the next run retries them.
"""

from __future__ import annotations

from cluster.run.result import RunResult, Status
from cluster.steps.plan import plan
from cluster.store.base import Store
from pipelines.dag import fewshot
from pipelines.schema.config import PipelineConfig


def dropped_members(config: PipelineConfig, store: Store) -> tuple[str, ...]:
    """Members whose last attempt failed, if those with a result are enough by themselves; else none.

    Args:
        config: The recipe.
        store: Where results and failures are.
    """
    if config.ensemble.min_members is None:
        return ()
    lines = plan(fewshot.build_steps(config), store)
    voting = {step.name for line in lines if line.name == "soft_labels" for step in line.step.upstream()}
    members = [line for line in lines if line.name in voting and not line.name.startswith("data/")]
    made = [line.name for line in members if line.manifest is not None]
    failed = [
        line.name
        for line in members
        if line.manifest is None and store.failure(line.name, line.fingerprint) is not None
    ]
    enough = len(made) >= config.ensemble.min_members and len(made) + len(failed) == len(members)
    return tuple(failed) if enough else ()


def merge_results(first: RunResult, second: RunResult) -> RunResult:
    """One run out of two: the first, in which members failed, and the second, which went on without them."""
    steps = {name: report for name, report in first.steps.items() if report.status in (Status.EXECUTED, Status.CACHED)}
    return RunResult(
        steps=steps | second.steps,
        errors=second.errors,
        wall_s=first.wall_s + second.wall_s,
        signal=second.signal,
    )
