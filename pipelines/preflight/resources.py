"""Compares the CPUs and GPUs that the steps of a plan request with the machines on which they would run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cluster.run.capacity import Capacity
from cluster.run.ray_session import session
from cluster.steps.plan import Plan, PlannedStep, PlanState
from cluster.steps.step import Step
from pipelines.preflight.memory import gpu_sizes

AMD_DRIVER = Path("/dev/kfd")
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def known_capacity(steps: Iterable[Step], address: str | None = None) -> Capacity | None:
    """Returns the CPUs and GPUs of the Ray cluster, or of this machine if there is no cluster.

    Starts no Ray, and connects to one only if a step requests a GPU or several workers: all others run anywhere.

    Args:
        steps: The steps to run.
        address: Address of a running Ray; None: that of `RAY_ADDRESS`, if it is set.

    Returns:
        None if every step can run anywhere, or if this machine has GPUs that cannot be counted.

    Raises:
        SessionError: the cluster cannot be reached.
    """
    if not any(step.resources.gpus or step.resources.is_shared for step in steps):
        return None
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        with session(address) as capacity:
            return capacity
    if AMD_DRIVER.exists():
        return None
    cpus, gpus = os.cpu_count() or 1, num_local_gpus()
    return Capacity(cpus=cpus, gpus=gpus, node_cpus=cpus, node_gpus=gpus)


def num_local_gpus() -> int:
    """Returns the number of NVIDIA GPUs of this machine that this process may use."""
    num_gpus = len(gpu_sizes())
    visible = os.environ.get(VISIBLE_GPUS)
    return num_gpus if visible is None else min(num_gpus, len([item for item in visible.split(",") if item.strip()]))


def block_impossible(planned: Plan, capacity: Capacity) -> Plan:
    """Returns a plan in which the steps are BLOCKED that the machines can never run, and those that need them."""
    lines: dict[str, PlannedStep] = {}
    impossible: set[str] = set()
    for name, line in planned.lines.items():
        reasons = _why_impossible(line, impossible, capacity) if line.state is PlanState.RUN else ()
        if reasons:
            impossible.add(name)
        lines[name] = replace(line, state=PlanState.BLOCKED, reasons=reasons) if reasons else line
    return replace(planned, lines=lines)


def _why_impossible(line: PlannedStep, impossible: set[str], capacity: Capacity) -> tuple[str, ...]:
    if missing := capacity.find_missing(line.step.resources):
        return (f"{missing.problem} {missing.remedy}",)
    names = dict.fromkeys(item.name for item in line.step.upstream())
    return tuple(f"it needs {name}, which is blocked" for name in names if name in impossible)
