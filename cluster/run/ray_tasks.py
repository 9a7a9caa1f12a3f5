"""The Ray tasks of a run, and the actor that buffers the metrics that workers report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cluster.errors import LeaseLostError, SessionError, StepFailedError, StoreError
from cluster.run.ray_session import Capacity, capacity
from cluster.run.step_worker import run_step
from cluster.steps.step import Resources
from cluster.steps.task_spec import TaskSpec
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.tracking.recorder import LogBatch

SEND_TIMEOUT_S = 10.0


class LogBuffer:
    """A small actor beside the driver that keeps batches until the driver asks."""

    def __init__(self) -> None:
        self._batches: list[LogBatch] = []

    def post(self, batch: LogBatch) -> None:
        """Keeps a batch."""
        self._batches.append(batch)

    def drain(self) -> list[LogBatch]:
        """Hands out all batches, in the order in which they came."""
        batches, self._batches = self._batches, []
        return batches


@dataclass(frozen=True, slots=True)
class LogSender:
    """Sends batches to a desk; goes along to other workers. False: the desk did not take one."""

    desk: Any

    def __call__(self, batch: LogBatch) -> bool:
        import ray

        try:
            ray.get(self.desk.post.remote(batch), timeout=SEND_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError):
            return False
        return True


def run_task(order: TaskSpec, desk: Any, *upstream: Manifest) -> Manifest | StepFailedError | LeaseLostError:
    """The Ray task: one step. Its arguments after the desk are the results of its upstream."""
    try:
        return run_step(order, LogSender(desk), upstream)
    except LeaseLostError as error:
        return error


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """A task that ended. Without an outcome it was cancelled."""

    step: str
    outcome: Manifest | StepFailedError | LeaseLostError | None


class TaskPool:
    """The running tasks of a driver. Needs a session."""

    def __init__(self, capacity: Capacity) -> None:
        import ray

        self._ray = ray
        self._capacity = capacity
        self._task = ray.remote(max_retries=0)(run_task)
        self._refs: dict[Any, TaskSpec] = {}
        self._needs: dict[str, tuple[float, float]] = {}
        # Results of this run by step, so that later tasks take the reference and not a copy.
        self._results: dict[str, Any] = {}
        node = ray.get_runtime_context().get_node_id()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=True)
        self._desk = ray.remote(LogBuffer).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def __len__(self) -> int:
        return len(self._refs)

    @property
    def steps(self) -> list[str]:
        """Steps that run."""
        return [order.step for order in self._refs.values()]

    def fits(self, resources: Resources) -> bool:
        """Whether the cluster has room for one more. Something always fits into an empty one."""
        cpus, gpus = self._needed(resources)
        used_cpus = sum(item[0] for item in self._needs.values())
        used_gpus = sum(item[1] for item in self._needs.values())
        return used_cpus + cpus <= self._capacity.cpus and used_gpus + gpus <= self._capacity.gpus

    def submit(self, order: TaskSpec, resources: Resources, upstream: tuple[Manifest, ...]) -> None:
        """Starts a task.

        Raises:
            SessionError: no machine of the cluster has the GPUs, or the whole cluster not room for its workers.
        """
        cpus, gpus = self._clamped(resources)
        if gpus > self._capacity.node_gpus:
            raise SessionError(
                f"step {order.step} asks for {gpus:g} GPUs, and the largest machine has {self._capacity.node_gpus:g}.",
                "Ask for fewer in its resources, or give --address of a cluster that has them.",
            )
        self._check_room(order.step, resources, order.store)
        # workers of a shared step ask for what they need themselves
        alone = (0, 0) if resources.is_shared else (cpus, gpus)
        task = self._task.options(num_cpus=alone[0], num_gpus=alone[1], name=order.step)
        arguments = [self._results.get(item.step, item) for item in upstream]
        self._refs[task.remote(order, self._desk, *arguments)] = order
        self._needs[order.step] = self._needed(resources)

    def _check_room(self, step: str, resources: Resources, store: str) -> None:
        """Workers that find no place would wait for ever; and the first one's files must be where the step is."""
        if resources.is_shared and "://" in store and self._capacity.cpus > self._capacity.node_cpus:
            raise SessionError(
                f"step {step} has {resources.max_workers} workers, which may be on several machines, and {store} is no "
                "folder that they share.",
                "Take a store in a folder that all machines have"
                + ("." if resources.strategy == "stream" else ", or strategy: single."),
            )
        there = {"CPUs": self._capacity.cpus, "GPUs": self._capacity.gpus}
        for what, each in (("CPUs", resources.cpus), ("GPUs", resources.gpus)):
            if resources.is_shared and resources.min_workers * each > there[what]:
                raise SessionError(
                    f"step {step} asks for {resources.min_workers} workers with {each:g} {what} each, and the cluster "
                    f"has {there[what]:g} in all.",
                    "Ask for fewer workers, or for less each; or give --address of a larger cluster.",
                )

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Tasks that ended, after one did or the time is over."""
        refs = list(self._refs)
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._collect(ref) for ref in ready]

    def batches(self) -> list[LogBatch]:
        """What the steps recorded since the last call; nothing if the desk is being restarted."""
        try:
            batches: list[LogBatch] = self._ray.get(self._desk.drain.remote(), timeout=SEND_TIMEOUT_S)
        except (self._ray.exceptions.RayError, TimeoutError):
            return []
        return batches

    def cancel(self, *, force: bool = False) -> None:
        """Asks all that runs to end, except for commits; with `force` ends the processes. `wait` tells of the ends."""
        for ref in self._refs:
            self._ray.cancel(ref, force=force)

    def close(self) -> None:
        """Stops what still runs."""
        self.cancel(force=True)
        self._refs.clear()
        self._ray.kill(self._desk)

    def _collect(self, ref: Any) -> FinishedTask:
        order = self._refs.pop(ref)
        del self._needs[order.step]
        try:
            outcome = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return FinishedTask(order.step, None)
        except self._ray.exceptions.RayError as error:
            # A machine may be gone, with what it had and with the results that it kept for Ray.
            self._capacity = capacity()
            self._results.clear()
            return FinishedTask(order.step, _worker_failure(order, error))
        if not isinstance(outcome, (StepFailedError, LeaseLostError)):
            self._results[order.step] = ref
        return FinishedTask(order.step, outcome)

    def _needed(self, resources: Resources) -> tuple[float, float]:
        """CPUs and GPUs of all its workers: as many as an empty cluster has room for."""
        cpus, gpus = self._clamped(resources)
        pairs = ((self._capacity.cpus, cpus), (self._capacity.gpus, gpus))
        # nothing is asked of a cluster that has lost all machines with cores: another may come
        room = min((int(there // each) for there, each in pairs if each), default=resources.max_workers)
        count = max(resources.min_workers, min(resources.max_workers, room))
        return count * cpus, count * gpus

    def _clamped(self, resources: Resources) -> tuple[float, float]:
        """A machine with fewer cores than a step has threads runs it all the same, more slowly."""
        return min(resources.cpus, self._capacity.node_cpus), resources.gpus


def _worker_failure(order: TaskSpec, error: Exception) -> StepFailedError:
    """A failure of the worker and not of the step: it was killed, ran out of memory, or its machine is gone."""
    from ray import exceptions

    lost = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
        exceptions.RuntimeEnvSetupError,
    )
    remedy = ""
    if isinstance(error, exceptions.OutOfMemoryError):
        remedy = "Make its batch_size smaller, or run fewer steps at once with --max-parallel 1."
    text = str(error).strip()
    store = open_store(order.store)
    log = store.log_path(order.step, order.key.fingerprint, order.attempt)
    with suppress(OSError, StoreError):
        # There is one if the worker was on this machine; it had no time to share it.
        store.upload(log)
    return StepFailedError(
        order.step,
        f"its worker was lost ({type(error).__name__}: {text.splitlines()[0] if text else 'no more is known'})",
        remedy=remedy,
        trace=text,
        log=store.uri_of(log),
        transient=isinstance(error, lost),
        attempt=order.attempt,
    )
