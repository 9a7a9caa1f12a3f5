"""Submits steps to Ray as tasks, which Ray queues until a machine has room, and receives what they send.

All that happens arrives in one queue: the ends of tasks, and the records of workers, which an actor collects. So a turn
of the driver costs the same whether ten or a thousand tasks wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from cluster.errors import LeaseLostError, SessionError, StepFailedError, StoreError
from cluster.redaction import redact
from cluster.run.attempt_logs import finish_log_of
from cluster.run.capacity import Capacity, Machine
from cluster.run.own_code import import_own_code_first
from cluster.run.ray_session import capacity, free_machines
from cluster.run.speculation import RunningTask
from cluster.run.step_worker import Outcome, next_attempt, run_step
from cluster.steps.step import Resources
from cluster.steps.task_spec import Rival, TaskSpec
from cluster.store.lease import new_token
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.tracking.recorder import AttemptStart, LogBatch

SEND_TIMEOUT_S = 10.0
REFRESH_EVERY_S = 2.0
"""Seconds between two looks at the machines of the cluster, which may grow."""
POLL_RECORDS_S = 60.0
"""How long one request for records waits for some."""
RECONNECT_AFTER_S = 0.5
LAST_WORDS_S = 0.5
"""How long the records of a worker that was killed are awaited."""
NODE_ID = "ray.io/node-id"
"""Label that Ray gives each machine."""
MAX_TASKS = 1000
"""Tasks that wait or run at once. More would not start anything earlier, and cost the driver memory."""


class LogBuffer:
    """A small actor on the driver's machine that passes batches to the driver."""

    def __init__(self) -> None:
        self._batches: list[LogBatch] = []
        self._has_batches = asyncio.Event()

    async def post(self, batch: LogBatch) -> None:
        """Keeps a batch."""
        self._batches.append(batch)
        self._has_batches.set()

    async def drain(self) -> list[LogBatch]:
        """Returns and forgets all batches, in the order in which they arrived. Waits for the first one."""
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._has_batches.wait(), POLL_RECORDS_S)
        self._has_batches.clear()
        batches, self._batches = self._batches, []
        return batches


def post(buffer: Any, token: str, batch: LogBatch) -> bool:
    """Sends a batch of the attempt with `token` to the `LogBuffer` of the driver.

    Returns False if the driver's machine does not answer.
    """
    import ray  # noqa: PLC0415  (Ray reads the environment that `session` sets before it is imported)

    batch.token = token
    if batch.started is not None:
        batch.started = replace(batch.started, node=ray.get_runtime_context().get_node_id())
    try:
        ray.get(buffer.post.remote(batch), timeout=SEND_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError):
        return False
    return True


def run_task(spec: TaskSpec, buffer: Any, upstream: tuple[Manifest, ...]) -> Outcome:
    """The Ray task: runs one step."""
    import_own_code_first()
    outcome = run_step(spec, partial(post, buffer, spec.lease.token), upstream)
    # The driver has the key, which is larger than the rest.
    return replace(outcome, key={}) if isinstance(outcome, Manifest) else outcome


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """A task that ended. `outcome` is None if it was canceled; `start` is None if its attempt never started."""

    spec: TaskSpec
    start: AttemptStart | None
    outcome: Outcome | None

    @property
    def step(self) -> str:
        """The name of the step."""
        return self.spec.step

    @property
    def token(self) -> str:
        """The token of the attempt's lease."""
        return self.spec.lease.token


@dataclass(slots=True, eq=False)
class _Task:
    """A task that waits or runs: the CPUs that it requests, and what is known about its attempt.

    `reservation` is the placement group for which a step with workers of its own waits. The start of the attempt was
    reported at `started_at_s`. After the end of a task its last records are awaited until `end_by_s`.
    """

    spec: TaskSpec
    upstream: tuple[Manifest, ...]
    cpus: float
    ref: Any = None
    reservation: Any = None
    start: AttemptStart | None = None
    started_at_s: float = 0.0
    has_last_records: bool = False
    outcome: Outcome | Exception | None = None
    end_by_s: float | None = None


Received: TypeAlias = LogBatch | FinishedTask


class TaskPool:
    """The tasks of a driver. Needs a session. `capacity` is what its cluster has."""

    def __init__(self, capacity: Capacity) -> None:
        import ray  # noqa: PLC0415  (Ray reads the environment that `session` sets before it is imported)

        self._ray = ray
        self.capacity = capacity
        self._task = ray.remote(max_retries=0)(run_task)
        self._tasks: dict[str, _Task] = {}
        """Token of an attempt's lease -> its task."""
        self._arrived: SimpleQueue[Callable[[], Iterable[Received]]] = SimpleQueue()
        """What happened, written by threads of Ray: functions to call in the thread of the driver."""
        self._refreshed_at_s = time.monotonic()
        self._has_changed = False
        """The machines changed since the sizes of tasks were compared with them."""
        self._ending: list[_Task] = []
        """Tasks that have ended, and whose last records have not arrived."""
        self._reconnect_at_s: float | None = None
        node = ray.get_runtime_context().get_node_id()
        on_driver = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=True)
        self._buffer = (
            ray.remote(LogBuffer).options(num_cpus=0, max_restarts=-1, scheduling_strategy=on_driver).remote()
        )
        self._request_records()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def steps(self) -> list[str]:
        """Names of the steps that wait or run."""
        return list(dict.fromkeys(task.spec.step for task in self._tasks.values()))

    @property
    def lacks_machines(self) -> bool:
        """True while no machine of the cluster has a CPU, so that all tasks wait for the first one."""
        self._refresh()
        return self.capacity.lacks_machines

    def find_missing(self, resources: Resources) -> SessionError | None:
        """Returns why the cluster can never run a step. See `Capacity.find_missing`."""
        self._refresh()
        return self.capacity.find_missing(resources)

    def submit(self, spec: TaskSpec, upstream: tuple[Manifest, ...]) -> None:
        """Submits a step; Ray queues it until a machine has room. `find_missing` says if one ever has."""
        worker = self.capacity.per_worker(spec.resources)
        task = _Task(spec, upstream, worker.cpus)
        self._tasks[spec.lease.token] = task
        if spec.resources.is_shared:
            self._reserve(task, worker)
        else:
            self._start(task, num_cpus=worker.cpus, num_gpus=worker.gpus)

    def submit_again(self, token: str) -> str:
        """Submits a step that runs to another node, too. Returns the token of the second attempt. See `TaskSpec`."""
        first = self._tasks[token]
        assert first.start is not None, "it runs"
        rival = Rival(token, first.start.attempt, first.start.node)
        lease = replace(first.spec.lease, token=new_token())
        self.submit(replace(first.spec, lease=lease, rival=rival), first.upstream)
        return lease.token

    def running(self) -> list[RunningTask]:
        """Returns the attempts that run in one process, and are the only ones of their steps as far as they know."""
        now_s = time.monotonic()
        return [
            RunningTask(
                step=task.spec.step,
                token=token,
                seconds=now_s - task.started_at_s,
                needs=self.capacity.per_worker(task.spec.resources),
                node=task.start.node,
            )
            for token, task in self._tasks.items()
            if task.start is not None
            and task.end_by_s is None
            and task.spec.rival is None
            and not task.spec.resources.is_shared
        ]

    def queued(self) -> list[Machine]:
        """Returns what each worker of the tasks that Ray has no room for requests."""
        waiting = (task.spec.resources for task in self._tasks.values() if task.start is None)
        return [self.capacity.per_worker(resources) for resources in waiting]

    def free(self) -> dict[str, Machine]:
        """Returns what no task uses, by the ids of the machines."""
        return free_machines()

    def wait(self, timeout_s: float) -> list[Received]:
        """Returns what arrived, in order; waits up to `timeout_s` seconds for the first item.

        A task that ended is returned after its records.
        """
        self._shrink()
        if self._reconnect_at_s is not None and time.monotonic() > self._reconnect_at_s:
            self._request_records()
        received: list[Received] = []
        with suppress(Empty):
            received += self._arrived.get(timeout=timeout_s)()
            while True:
                received += self._arrived.get_nowait()()
        return received + list(self._give_up_records())

    def cancel(self, *, force: bool = False) -> None:
        """Requests all tasks to end, except for commits; with `force` kills their processes. `wait` returns them."""
        for token in list(self._tasks):
            self.cancel_task(token, force=force)

    def cancel_task(self, token: str, *, force: bool = False) -> None:
        """Does the same for the attempt with `token`, unless it has ended."""
        task = self._tasks.get(token)
        if task is None:
            return
        if task.reservation is None:
            self._ray.cancel(task.ref, force=force)
        else:
            self._arrived.put(partial(self._cancel_reserved, task))

    def close(self) -> None:
        """Kills what still runs, and removes the reservations of steps that wait."""
        self.cancel(force=True)
        for task in self._tasks.values():
            self._unreserve(task)
        self._tasks.clear()
        self._ray.kill(self._buffer)

    def _start(self, task: _Task, **resources: Any) -> None:
        if task.spec.rival is not None:
            resources["label_selector"] = {NODE_ID: f"!in({task.spec.rival.node})"}
        # Ray keeps counters for each name as long as the driver lives, so steps of one kind have the same.
        options = self._task.options(name=task.spec.step.partition("/")[0], **resources)
        task.ref = options.remote(task.spec, self._buffer, task.upstream)
        self._listen(task.ref, partial(self._end, task))

    def _reserve(self, task: _Task, worker: Machine) -> None:
        """Waits for room for all workers of a step. Ray Train and Ray Data request it again when the step starts."""
        from ray.util.placement_group import placement_group  # noqa: PLC0415  (Ray is imported after `session`)

        bundle = {"CPU": worker.cpus, **({"GPU": worker.gpus} if worker.gpus else {})}
        task.reservation = placement_group([bundle] * self.capacity.num_workers(task.spec.resources))
        self._listen(task.reservation.ready(), partial(self._start_reserved, task))

    def _unreserve(self, task: _Task) -> None:
        from ray.util.placement_group import remove_placement_group  # noqa: PLC0415  (see `_reserve`)

        if task.reservation is not None:
            remove_placement_group(task.reservation)
            task.reservation = None

    def _listen(self, ref: Any, receive: Callable[[Any], Iterable[Received]]) -> None:
        """Calls `receive` with the future of a reference in the thread of the driver, when it is done."""
        # The reference must live until then.
        ref.future().add_done_callback(lambda done, ref=ref: self._arrived.put(partial(receive, done)))

    def _request_records(self) -> None:
        self._reconnect_at_s = None
        self._listen(self._buffer.drain.remote(), self._receive_records)

    def _receive_records(self, done: Any) -> Iterator[Received]:
        if done.exception() is not None:  # the buffer is being restarted
            self._reconnect_at_s = time.monotonic() + RECONNECT_AFTER_S
            return
        self._request_records()
        for batch in done.result():
            task = self._tasks.get(batch.token)
            if task is None:
                continue
            if batch.started is not None:
                task.start, task.started_at_s = batch.started, time.monotonic()
            yield batch
            task.has_last_records |= batch.is_last
            if batch.is_last and task.end_by_s is not None:
                yield self._finish(task)

    def _is_current(self, task: _Task) -> bool:
        """Returns False for a task that was returned, or submitted again."""
        return self._tasks.get(task.spec.lease.token) is task

    def _start_reserved(self, task: _Task, done: Any) -> Iterable[Received]:
        """Starts a step, now that the cluster has room for all of its workers."""
        del done
        if self._is_current(task):
            self._unreserve(task)
            self._start(task, num_cpus=0)
        return ()

    def _cancel_reserved(self, task: _Task) -> Iterator[Received]:
        """Returns a task that waits for its reservation."""
        if self._is_current(task) and task.reservation is not None:
            yield self._finish(task)

    def _end(self, task: _Task, done: Any) -> Iterator[Received]:
        """Returns a task that ended, unless it waits for its last records."""
        if not self._is_current(task):
            return
        error = done.exception()
        if isinstance(error, self._ray.exceptions.TaskCancelledError):
            yield self._finish(task)
            return
        task.outcome = error or done.result()
        if error is not None:
            self._refresh(now=True)  # a machine may be gone
            pause_s = LAST_WORDS_S
        else:
            pause_s = SEND_TIMEOUT_S * (_has_records(task.outcome) and not task.has_last_records)
        if pause_s:
            task.end_by_s = time.monotonic() + pause_s
            self._ending.append(task)
        else:
            yield self._finish(task)

    def _give_up_records(self) -> Iterator[FinishedTask]:
        """Returns tasks whose last records have not arrived in time."""
        self._ending = [task for task in self._ending if self._is_current(task)]
        for task in self._ending:
            if task.end_by_s is not None and time.monotonic() > task.end_by_s:
                yield self._finish(task)

    def _finish(self, task: _Task) -> FinishedTask:
        del self._tasks[task.spec.lease.token]
        self._unreserve(task)
        outcome = task.outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, Outcome):
            task.start = task.start or _unreported_start(task.spec)
            outcome = _worker_failure(task.spec, task.start, outcome)
        return FinishedTask(task.spec, task.start, outcome)

    def _refresh(self, *, now: bool = False) -> None:
        """Looks at the machines of the cluster again, every few seconds."""
        if not now and time.monotonic() - self._refreshed_at_s < REFRESH_EVERY_S:
            return
        self._refreshed_at_s = time.monotonic()
        before, self.capacity = self.capacity, capacity().with_addable(self.capacity.addable)
        self._has_changed |= self.capacity != before

    def _shrink(self) -> None:
        """Submits tasks again that wait for more CPUs than any machine has, now that there are machines."""
        if not self._has_changed:
            return
        self._has_changed = False
        largest = self.capacity.node_cpus
        for task in list(self._tasks.values()):
            if 0 < largest < task.cpus and task.start is None:
                if task.reservation is None:
                    self._ray.cancel(task.ref)
                self._unreserve(task)
                self.submit(task.spec, task.upstream)


def _has_records(outcome: Outcome | Exception | None) -> bool:
    """Returns True if the attempt started, so that its records arrive."""
    return isinstance(outcome, Manifest | LeaseLostError) or (
        isinstance(outcome, StepFailedError) and bool(outcome.log)
    )


def _unreported_start(spec: TaskSpec) -> AttemptStart | None:
    """Returns the attempt of a worker that was killed before it could report its start; None if it did not start."""
    store = open_store(spec.store)
    with suppress(OSError, StoreError):
        lease = store.slot(spec.step, spec.key.fingerprint).read()
        if lease is not None and lease.token == spec.lease.token:
            return next_attempt(spec, store)
    return None


def _worker_failure(spec: TaskSpec, start: AttemptStart | None, error: Exception) -> StepFailedError:
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
    address, attempt = "", 1
    if start is not None:
        address, attempt = start.log, start.attempt
        finish_log_of(start.token, open_store(spec.store))
    return StepFailedError(
        spec.step,
        f"its worker was lost ({type(error).__name__}: {text.splitlines()[0] if text else 'no details'})",
        remedy=remedy,
        trace=redact(text),
        log=address,
        transient=isinstance(error, lost),
        attempt=attempt,
    )
