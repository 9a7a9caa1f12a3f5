"""What the machines of a cluster have, and which steps they can run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from cluster.errors import SessionError
from cluster.steps.step import Resources

ADDABLE = "CLOZELINE_LARGEST_MACHINE"
"""Variable with the largest machine that the autoscaler of a cluster may add."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """CPUs and GPUs of one machine."""

    cpus: float
    gpus: float = 0

    def fits(self, needed: Machine) -> bool:
        """Returns True if these CPUs and GPUs are enough for a worker."""
        return needed.cpus <= self.cpus and needed.gpus <= self.gpus


def addable_machine() -> Machine | None:
    """Returns the machine that `CLOZELINE_LARGEST_MACHINE` describes as `CPUS` or `CPUS,GPUS`; None if it is not set.

    Raises:
        SessionError: it has another form.
    """
    text = os.environ.get(ADDABLE)
    if not text:
        return None
    try:
        cpus, _, gpus = text.partition(",")
        return Machine(cpus=float(cpus), gpus=float(gpus or 0))
    except ValueError:
        raise SessionError(
            f"{ADDABLE} is {text!r}, which is not the CPUs and GPUs of a machine.", "Set it as in 16,1."
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """CPUs and GPUs of the cluster, and of its largest machine.

    `addable` is the largest machine that an autoscaler may add, if there is one. Then the totals are no limit, and
    `node_cpus` and `node_gpus` are those of any machine that may join.
    """

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float
    addable: Machine | None = None

    def with_addable(self, machine: Machine | None) -> Capacity:
        """Adds the largest machine that an autoscaler may start; None: there is no autoscaler."""
        if machine is None:
            return self
        return replace(
            self,
            node_cpus=max(self.node_cpus, machine.cpus),
            node_gpus=max(self.node_gpus, machine.gpus),
            addable=machine,
        )

    @property
    def lacks_machines(self) -> bool:
        """True while no machine has a CPU and none is known to come, so that all steps wait for the first one."""
        return self.node_cpus == 0

    def per_worker(self, resources: Resources) -> Machine:
        """Returns what a worker requests. A machine with fewer cores than a step has threads runs it more slowly."""
        # Without any machine yet, ask for all, so that Ray does not start every step on a head without CPUs.
        return Machine(cpus=min(resources.cpus, self.node_cpus or resources.cpus), gpus=resources.gpus)

    def num_workers(self, resources: Resources) -> int:
        """Returns the number of workers of a step: as many as an empty cluster has room for."""
        worker = self.per_worker(resources)
        pairs = ((self.cpus, worker.cpus), (self.gpus, worker.gpus))
        room = min((int(total // each) for total, each in pairs if each), default=resources.max_workers)
        return max(resources.min_workers, min(resources.max_workers, room))

    def waits_for(self, resources: Resources) -> str:
        """Returns what a step that is not running yet waits for, such as `1 GPU` or `4 workers with 1 GPU each`."""
        worker = self.per_worker(resources)
        units = [_count(worker.gpus, "GPU")] * bool(worker.gpus) + [_count(worker.cpus, "CPU")] * (worker.cpus != 1)
        text = " and ".join(units) or _count(worker.cpus, "CPU")
        if not resources.is_shared:
            return text
        num_workers = self.num_workers(resources)
        return f"1 worker with {text}" if num_workers == 1 else f"{num_workers} workers with {text} each"

    def find_missing(self, resources: Resources) -> SessionError | None:
        """Returns why the cluster can never run a step with these resources, or None."""
        if self.lacks_machines:  # nothing is known about machines that have not joined yet
            return None
        if resources.gpus > self.node_gpus:
            return SessionError(
                f"it requests {resources.gpus:g} GPUs, but the largest machine has {self.node_gpus:g}.",
                "Request fewer in its resources, or set --address to a cluster that has them.",
            )
        if not resources.is_shared or self.addable is not None:
            return None
        for unit, available, per_worker in (
            ("CPUs", self.cpus, resources.cpus),
            ("GPUs", self.gpus, resources.gpus),
        ):
            if resources.min_workers * per_worker > available:
                return SessionError(
                    f"it requests {resources.min_workers} workers with {per_worker:g} {unit} each, but the cluster has "
                    f"{available:g} in total.",
                    "Request fewer workers or less for each, or set --address to a larger cluster.",
                )
        return None


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
