"""Runs one step of a plan in this process, as a worker does."""

from __future__ import annotations

from cluster.run.step_worker import Outcome, run_step
from cluster.steps.fingerprint import KeyOptions
from cluster.steps.plan import PlannedStep
from cluster.steps.task_spec import LateConfig, TaskSpec, input_indices
from cluster.store.base import Store
from cluster.store.lease import Lease, Owner, new_token
from cluster.store.manifest import Manifest
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.engine import ENGINE


def run_alone(
    line: PlannedStep, store: Store, upstream: tuple[Manifest, ...] = (), key_options: KeyOptions | None = None
) -> Outcome:
    """Runs a step, even if it has a result. Its upstream steps have the results `upstream`."""
    step = line.step
    spec = TaskSpec(
        step=step.name, run=step.run, config=LateConfig(step.config), key=line.key, store=store.url,
        roles=input_indices(step, tuple(item.step for item in upstream)), forced=True,
        lease=Lease(owner=Owner.current(), token=new_token()), resources=step.resources, engine=ENGINE,
        files=step.files, identify=IDENTIFY, locate=LOCATE, provenance={}, key_options=key_options or KeyOptions(),
    )  # fmt: skip
    return run_step(spec, lambda batch: True, upstream)
