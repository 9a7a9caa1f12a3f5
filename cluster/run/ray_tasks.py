"""Submits steps to Ray as tasks and buffers the metrics that workers report."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cluster.errors import LeaseLostError, SessionError, StepFailedError, StoreError
from cluster.redaction import redact, redact_file
from cluster.run.ray_session import Capacity, capacity, import_own_code_first
from cluster.run.step_worker import run_step
from cluster.steps.step import Resources
from cluster.steps.task_spec import TaskSpec
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.tracking.recorder import LogBatch

SEND_TIMEOUT_S = 10.0
REFRESH_EVERY_S = 2.0
"""Seconds between two looks at the machines of the cluster, which may grow."""


class LogBuffer:
    """A small actor on the driver's machine that keeps batches until the driver fetches them."""

    def __init__(self) -> None:
        self._batches: list[LogBatch] = []

    def post(self, batch: LogBatch) -> None:
        """Keeps a batch."""
        self._batches.append(batch)

    def drain(self) -> list[LogBatch]:
        """Returns and forgets all batches, in the order in which they arrived."""
        batches, self._batches = self._batches, []
        return batches


@dataclass(frozen=True, slots=True)
class LogSender:
    """Sends batches to a `LogBuffer`. It can be pickled and called in any worker. Returns False if sending failed."""

    buffer: Any

    def __call__(self, batch: LogBatch) -> bool:
        import ray  # noqa: PLC0415  (Ray reads the environment that `session` sets before it is imported)

        try:
            ray.get(self.buffer.post.remote(batch), timeout=SEND_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError):
            return False
        return True


def run_task(spec: TaskSpec, buffer: Any, *upstream: Manifest) -> Manifest | StepFailedError | LeaseLostError:
    """The Ray task: runs one step. Ray passes the results of its upstream as further arguments."""
    import_own_code_first()
    try:
        return run_step(spec, LogSender(buffer), upstream)
    except LeaseLostError as error:
        return error


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """A task that ended. `outcome` is None if it was canceled."""

    step: str
    outcome: Manifest | StepFailedError | LeaseLostError | None


@dataclass(frozen=True, slots=True)
class _Task:
    """A task that waits or runs, and the CPUs that it requests."""

    spec: TaskSpec
    upstream: tuple[Manifest, ...]
    cpus: float


class TaskPool:
    """The running tasks of a driver. Needs a session."""

    def __init__(self, capacity: Capacity) -> None:
        import ray  # noqa: PLC0415  (Ray reads the environment that `session` sets before it is imported)

        self._ray = ray
        self._capacity = capacity
        self._task = ray.remote(max_retries=0)(run_task)
        self._tasks: dict[Any, _Task] = {}
        """Reference of each task that waits or runs -> the task."""
        self._refreshed_at_s = time.monotonic()
        self._used: dict[str, tuple[float, float]] = {}
        """Running step -> the CPUs and GPUs that it uses."""
        self._results: dict[str, Any] = {}
        """Step -> reference to its result of this run. Later tasks get the reference instead of a copy."""
        node = ray.get_runtime_context().get_node_id()
        on_driver = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=True)
        self._buffer = (
            ray.remote(LogBuffer).options(num_cpus=0, max_restarts=-1, scheduling_strategy=on_driver).remote()
        )

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def steps(self) -> list[str]:
        """Names of the running steps."""
        return [task.spec.step for task in self._tasks.values()]

    def fits(self, resources: Resources) -> bool:
        """Returns True if the cluster has room for another step. Machines may have joined in the meantime."""
        if self._has_room(resources):
            return True
        return self._refresh() and self._has_room(resources)

    @property
    def lacks_machines(self) -> bool:
        """True while no machine of the cluster has a CPU, so that all tasks wait for the first one."""
        self._refresh()
        return self._capacity.node_cpus == 0

    def submit(self, spec: TaskSpec, upstream: tuple[Manifest, ...]) -> None:
        """Starts a task; Ray queues it until a machine has room. `find_missing` says if one ever has."""
        cpus, gpus = self._per_worker(spec.resources)
        if spec.resources.is_shared:  # its workers request their own resources
            cpus, gpus = 0, 0
        task = self._task.options(num_cpus=cpus, num_gpus=gpus, name=spec.step)
        arguments = [self._results.get(item.step, item) for item in upstream]
        self._tasks[task.remote(spec, self._buffer, *arguments)] = _Task(spec, upstream, cpus)
        self._used[spec.step] = self._required(spec.resources)

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Returns the tasks that ended; waits up to `timeout_s` seconds for the first one."""
        self._shrink()
        refs = list(self._tasks)
        done, _ = self._ray.wait(refs, num_returns=1, timeout=timeout_s)
        if done:
            done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._collect(ref) for ref in done]

    def batches(self) -> list[LogBatch]:
        """Returns what the steps recorded since the last call; nothing while the buffer restarts."""
        try:
            batches: list[LogBatch] = self._ray.get(self._buffer.drain.remote(), timeout=SEND_TIMEOUT_S)
        except (self._ray.exceptions.RayError, TimeoutError):
            return []
        return batches

    def cancel(self, *, force: bool = False) -> None:
        """Requests all tasks to end, except for commits; with `force` kills their processes. `wait` returns them."""
        for ref in self._tasks:
            self._ray.cancel(ref, force=force)

    def close(self) -> None:
        """Kills what still runs."""
        self.cancel(force=True)
        self._tasks.clear()
        self._ray.kill(self._buffer)

    def find_missing(self, resources: Resources, store: str) -> SessionError | None:
        """Returns why the cluster can never run a step with these resources, or None.

        Args:
            resources: The resources of the step.
            store: Address of the store.
        """
        self._refresh()
        if self._capacity.node_cpus == 0:  # nothing is known about machines that have not joined yet
            return None
        if resources.gpus > self._capacity.node_gpus:
            return SessionError(
                f"it requests {resources.gpus:g} GPUs, but the largest machine has {self._capacity.node_gpus:g}.",
                "Request fewer in its resources, or set --address to a cluster that has them.",
            )
        if not resources.is_shared:
            return None
        if "://" in store and self._capacity.cpus > self._capacity.node_cpus:
            return SessionError(
                f"it has {resources.max_workers} workers, which may run on several machines, but {store} is not a "
                "folder that they share.",
                "Use a store in a folder that all machines have"
                + ("." if resources.strategy == "stream" else ", or set strategy: single."),
            )
        for unit, available, per_worker in (
            ("CPUs", self._capacity.cpus, resources.cpus),
            ("GPUs", self._capacity.gpus, resources.gpus),
        ):
            if resources.min_workers * per_worker > available:
                return SessionError(
                    f"it requests {resources.min_workers} workers with {per_worker:g} {unit} each, but the cluster has "
                    f"{available:g} in total.",
                    "Request fewer workers or less for each, or set --address to a larger cluster.",
                )
        return None

    def _has_room(self, resources: Resources) -> bool:
        cpus, gpus = self._required(resources)
        used_cpus = sum(used[0] for used in self._used.values())
        used_gpus = sum(used[1] for used in self._used.values())
        return used_cpus + cpus <= self._capacity.cpus and used_gpus + gpus <= self._capacity.gpus

    def _refresh(self) -> bool:
        """Looks at the machines of the cluster again, every few seconds. Returns True if they have changed."""
        if time.monotonic() - self._refreshed_at_s < REFRESH_EVERY_S:
            return False
        self._refreshed_at_s = time.monotonic()
        before, self._capacity = self._capacity, capacity()
        return self._capacity != before

    def _shrink(self) -> None:
        """Submits tasks again that wait for more CPUs than any machine has, now that there are machines."""
        largest = self._capacity.node_cpus
        for ref, task in list(self._tasks.items()):
            if 0 < largest < task.cpus:
                self._ray.cancel(ref)
                del self._tasks[ref]
                self.submit(task.spec, task.upstream)

    def _collect(self, ref: Any) -> FinishedTask:
        spec = self._tasks.pop(ref).spec
        del self._used[spec.step]
        try:
            outcome = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return FinishedTask(spec.step, None)
        except self._ray.exceptions.RayError as error:
            # A machine may be gone, with its resources and the results that it kept for Ray.
            self._capacity = capacity()
            self._results.clear()
            return FinishedTask(spec.step, _worker_failure(spec, error))
        if not isinstance(outcome, (StepFailedError, LeaseLostError)):
            self._results[spec.step] = ref
        return FinishedTask(spec.step, outcome)

    def _required(self, resources: Resources) -> tuple[float, float]:
        """Returns the CPUs and GPUs of all workers of a step: as many workers as an empty cluster has room for."""
        cpus, gpus = self._per_worker(resources)
        pairs = ((self._capacity.cpus, cpus), (self._capacity.gpus, gpus))
        # A cluster without any cores has lost its machines; new ones may join.
        room = min((int(total // each) for total, each in pairs if each), default=resources.max_workers)
        num_workers = max(resources.min_workers, min(resources.max_workers, room))
        return num_workers * cpus, num_workers * gpus

    def _per_worker(self, resources: Resources) -> tuple[float, float]:
        """Returns CPUs and GPUs. A machine with fewer cores than the step has threads runs the step more slowly."""
        # Without any machine yet, ask for all, so that Ray does not start every step on a head without CPUs.
        return min(resources.cpus, self._capacity.node_cpus or resources.cpus), resources.gpus


def _worker_failure(spec: TaskSpec, error: Exception) -> StepFailedError:
    """The failure of a worker: it was killed, ran out of memory, or its machine is gone."""
    from ray import exceptions  # noqa: PLC0415  (Ray reads the environment that `session` sets before it is imported)

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
        remedy = "Reduce its batch_size, or run fewer steps at once with --max-parallel 1."
    text = str(error).strip()
    store = open_store(spec.store)
    log = store.log_path(spec.step, spec.key.fingerprint, spec.attempt)
    with suppress(OSError, StoreError):
        # If the worker was on this machine, its log is here, and was neither redacted nor uploaded.
        redact_file(log)
        store.upload(log)
    return StepFailedError(
        spec.step,
        f"its worker was lost ({type(error).__name__}: {text.splitlines()[0] if text else 'no details'})",
        remedy=remedy,
        trace=redact(text),
        log=store.uri_of(log),
        transient=isinstance(error, lost),
        attempt=spec.attempt,
    )
