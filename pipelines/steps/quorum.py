"""Going on without members that failed, where the recipe allows it by `ensemble.min_members`.

Without that key a missing member is an error: whatever needs the ensemble is blocked. With it, the ensemble's step
names who is missing, so that its fingerprint and the report say so, and the next run tries the missing ones again.
"""

from __future__ import annotations

from cluster.outcome import Outcome, Status
from cluster.plan import plan
from cluster.storage.store import Store
from pipelines import fewshot
from pipelines.config import PipelineConfig


def dropped(config: PipelineConfig, store: Store) -> tuple[str, ...]:
    """Members whose last attempt failed, if those with a result are enough by themselves; else none.

    Args:
        config: The recipe.
        store: Where results and failures are.
    """
    if config.ensemble.min_members is None:
        return ()
    lines = plan(fewshot.steps(config), store)
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


def merged(first: Outcome, second: Outcome) -> Outcome:
    """One run out of two: the first, in which members failed, and the second, which went on without them."""
    steps = {name: report for name, report in first.steps.items() if report.status in (Status.EXECUTED, Status.CACHED)}
    return Outcome(
        steps=steps | second.steps,
        errors=second.errors,
        wall_s=first.wall_s + second.wall_s,
        signal=second.signal,
    )
