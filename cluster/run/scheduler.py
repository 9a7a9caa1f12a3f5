"""Runs a graph of steps as Ray tasks: uses committed results, runs the other steps, and continues after failures."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from cluster.errors import LeaseHeldError, LeaseLostError, StepFailedError, StoreError
from cluster.run import events
from cluster.run.events import EventHandler
from cluster.run.ray_session import session
from cluster.run.ray_tasks import TaskPool
from cluster.run.result import RunOptions, RunResult, Status, StepResult
from cluster.run.signals import SignalHandler
from cluster.run.watchdog import EXIT_DELAY_S
from cluster.steps.fingerprint import config_params
from cluster.steps.plan import Plan, PlannedStep, PlanState, plan, stale_upstream
from cluster.steps.step import Step
from cluster.steps.task_spec import TaskSpec, input_indices
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.manifest import Manifest
from cluster.tracking.tracker import Tracker

STOP_WITHIN_S = 30.0
"""Seconds after Ctrl-C in which running steps may end; a commit of many gigabytes may take a while."""


def execute(
    steps: Plan | Iterable[Step],
    store: Store,
    options: RunOptions | None = None,
    tracker: Tracker | None = None,
    on_event: EventHandler | None = None,
) -> RunResult:
    """Brings every chosen step to a committed result. Ray is started only if a step has to run.

    Ctrl-C or SIGTERM once: no more steps are started, commits are finished, trainings save a checkpoint behind their
    optimizer step, other steps are cancelled, leases are given back, and the outcome says so. Twice: leaves at once.

    Args:
        steps: The plan of the run; or the leaves, or all steps, of a graph, which are then planned with `options`.
        store: Where results are and go.
        options: Which steps, and how.
        tracker: MLflow runs; None: nothing is tracked.
        on_event: Called with each event, in the driver's main thread.

    Raises:
        GraphError, FingerprintError: bad input; nothing was run.
        SessionError: Ray cannot be started, or has not what a step asks for.
    """
    started = time.monotonic()
    options = options or RunOptions()
    with ExitStack() as stack:
        emit = on_event or (lambda event: None)
        interrupts = stack.enter_context(SignalHandler(lambda: emit(events.Interrupted(at_once=True))))
        leases = stack.enter_context(Leases(options.ttl_s))
        planned = steps if isinstance(steps, Plan) else plan(steps, store, options)
        run = _Run(planned, store, options, leases, tracker, emit, stack, interrupts)
        while run.advance():
            run.wait()
        run.leave_open()
    run.outcome.wall_s = time.monotonic() - started
    return run.outcome


class _Run:
    """The state of one call of `execute`: every step is open, running, or has a report."""

    def __init__(
        self,
        planned: Plan,
        store: Store,
        options: RunOptions,
        leases: Leases,
        tracker: Tracker | None,
        on_event: EventHandler,
        stack: ExitStack,
        interrupts: SignalHandler,
    ) -> None:
        self.outcome = RunResult()
        self._key_options = planned.key_options
        self._lines = planned.lines
        self._open = dict(planned.lines)
        self._store = store
        self._options = options
        self._leases = leases
        self._tracker = tracker
        self._emit = on_event
        self._stack = stack
        self._interrupts = interrupts
        self._manifests: dict[str, Manifest] = {}
        self._unmade: set[str] = set()
        self._tasks: TaskPool | None = None
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        # MLflow run by step; empty without a tracker.
        self._running: dict[str, str] = {}
        self._announced: set[str] = set()
        # After a failure without keep_going: the steps that may still start.
        self._allowed: set[str] | None = None
        self._drained = 0.0
        # After Ctrl-C: when those who still run are ended by force.
        self._end_by: float | None = None

    def advance(self) -> bool:
        """Settles what can be settled and starts what can be started. Returns whether anything is left to wait for."""
        settled = True
        while settled:
            settled = False
            for line in list(self._open.values()):
                if self._interrupts.received:
                    self._interrupt()
                    return bool(self._running)
                if line.name in self._running or not self._is_ready(line):
                    continue
                settled |= self._settle(line)
        return bool(self._open)

    def wait(self) -> None:
        """Waits for a task to end, for progress, or for another driver."""
        if self._tasks is None or not len(self._tasks):
            time.sleep(min(0.2, self._options.poll_s))
            return
        done = self._tasks.wait(self._options.poll_s)
        # What a step recorded has to be logged before its run ends; mere progress can wait.
        if (done and self._tracker is not None) or time.monotonic() - self._drained > self._options.poll_s:
            self._drain()
        for item in done:
            self._finish(item.step, item.outcome)

    def leave_open(self) -> None:
        """Says of the steps that Ctrl-C left without a result that it did."""
        for line in self._open.values():
            if line.selected:
                self._report(line, Status.STOPPED, reason="interrupted")

    def _interrupt(self) -> None:
        """Ctrl-C: asks what runs to end, and after a while makes it."""
        if self._end_by is None:
            self._end_by = time.monotonic() + STOP_WITHIN_S
            self.outcome.signal = self._interrupts.signal
            self._emit(events.Interrupted(tuple(self._running)))
            if self._tasks is not None:
                self._tasks.cancel()
        elif time.monotonic() > self._end_by and self._tasks is not None:
            self._tasks.cancel(force=True)

    def abandon(self) -> None:
        """Stops what still runs, in a run that ends before its time. Called before Ray goes."""
        assert self._tasks is not None
        for name in self._tasks.steps:
            if self._tracker is not None:
                self._tracker.end_step(name, "KILLED")
        self._tasks.close()

    def _is_ready(self, line: PlannedStep) -> bool:
        """Whether all its upstream came to an end, well or badly."""
        return all(item.name not in self._open for item in line.step.upstream() if item.name in self._lines)

    def _settle(self, line: PlannedStep) -> bool:
        """One step whose upstream is settled: take, block or start it. Returns whether it has come to an end."""
        if line.state is PlanState.BLOCKED:
            return self._block(line, "; ".join(line.reasons))
        if not line.selected:
            assert line.manifest is not None
            return self._take(line, line.manifest)
        if line.manifest is not None and stale_upstream(line.step, line.manifest, self._manifests) is None:
            return self._take(line, line.manifest)
        missing = [item.name for item in line.step.upstream() if item.name in self._unmade]
        if missing:
            return self._block(line, f"it needs {missing[0]}, which has no result")
        if self._allowed is not None and line.name not in self._allowed:
            failed = self.outcome.failed[0]
            return self._block(line, f"not started after {failed} failed; --keep-going goes on with it")
        return self._start(line)

    def _take(self, line: PlannedStep, manifest: Manifest) -> bool:
        """A committed result."""
        del self._open[line.name]
        self._manifests[line.name] = manifest
        if not line.selected:
            return True
        run_id = None
        if self._tracker is not None:
            run_id = self._tracker.cached_step(line.name, manifest, config_params(line.key.components.items()))
        self._report(line, Status.CACHED, manifest=manifest, run_id=run_id, source_run_id=manifest.run_id)
        self._emit(events.StepFinished(line.name, manifest.seconds, cached=True, metrics=manifest.metrics))
        return True

    def _block(self, line: PlannedStep, reason: str) -> bool:
        del self._open[line.name]
        self._unmade.add(line.name)
        if line.selected:
            self._report(line, Status.BLOCKED, reason=reason)
            self._emit(events.StepBlocked(line.name, reason))
        return True

    def _start(self, line: PlannedStep) -> bool:
        """Starts a step, unless there is no room, another driver has it, or it failed a moment ago."""
        step, fingerprint = line.step, line.fingerprint
        if time.monotonic() < self._not_before.get(line.name, 0.0) or not self._has_room(step):
            return False
        slot = self._store.slot(line.name, fingerprint)
        try:
            token = self._leases.acquire(slot, line.name)
        except LeaseHeldError as held:
            self._not_before[line.name] = time.monotonic() + self._options.poll_s
            if line.name not in self._announced:
                self._announced.add(line.name)
                self._emit(events.StepWaiting(line.name, held.owner))
            return False
        except StoreError as error:
            return self._turn_away(line, error)
        # Since the plan was made another driver may have run the step.
        found = self._store.inspect(line.name, fingerprint, self._options.verify).manifest
        if found is not None and not line.forced and stale_upstream(step, found, self._manifests) is None:
            self._leases.release(slot)
            return self._take(line, found)
        self._submit(line, token)
        return False

    def _turn_away(self, line: PlannedStep, error: StoreError) -> bool:
        """The store does not take the lease. Returns whether the step has come to an end."""
        self._tries[line.name] = self._tries.get(line.name, 0) + 1
        passing = getattr(error, "transient", False)
        self._fail(line, StepFailedError(line.name, error.problem, remedy=error.remedy, transient=passing), None)
        return line.name not in self._open

    def _has_room(self, step: Step) -> bool:
        if self._tasks is None or not len(self._tasks):
            return True
        if self._options.max_parallel is not None and len(self._tasks) >= self._options.max_parallel:
            return False
        return self._tasks.fits(step.resources)

    def _submit(self, line: PlannedStep, token: str) -> None:

        tasks = self._connected()
        upstream = tuple(dict.fromkeys(item.name for item in line.step.upstream()))
        before = self._store.failure(line.name, line.fingerprint)
        attempt = before.attempt + 1 if before is not None else 1
        run_id = None
        if self._tracker is not None:
            params = config_params(line.key.components.items())
            run_id = self._tracker.start_step(line.name, line.fingerprint, params, attempt)
        order = TaskSpec(
            step=line.name,
            run=line.step.run,
            config=line.step.config,
            roles=input_indices(line.step, upstream),
            key=line.key,
            store=self._store.url,
            token=token,
            resources=line.step.resources,
            attempt=attempt,
            run_id=run_id,
            ttl_s=self._options.ttl_s,
            key_options=self._key_options,
        )
        self._running[line.name] = run_id or ""
        self._tries[line.name] = self._tries.get(line.name, 0) + 1
        tasks.submit(order, line.step.resources, tuple(self._manifests[name] for name in upstream))
        log = self._store.log_path(line.name, line.fingerprint, attempt)
        self._emit(events.StepStarted(line.name, attempt, self._store.uri_of(log)))

    def _connected(self) -> TaskPool:
        """Ray, started when the first step needs it."""
        if self._tasks is None:
            self._emit(events.RayStarting())
            capacity = self._stack.enter_context(session(self._options.address, self._options.num_cpus))
            self._interrupts.listen()
            self._tasks = TaskPool(capacity)
            self._stack.callback(self.abandon)
        return self._tasks

    def _finish(self, name: str, outcome: Manifest | StepFailedError | LeaseLostError | None) -> None:
        """A task ended."""
        line = self._open[name]
        run_id = self._running.pop(name) or None
        if isinstance(outcome, Manifest):
            self._commit(line, outcome, run_id)
        elif isinstance(outcome, LeaseLostError) or self._was_stopped(outcome):
            self._end_run(name, "KILLED")
        else:
            outcome = outcome or StepFailedError(name, "it was cancelled from outside.", remedy="Run it again.")
            self._store.record_failure(line.fingerprint, outcome)
            self._end_run(name, "FAILED")
            self._fail(line, outcome, run_id)
        self._leases.release(self._store.slot(name, line.fingerprint))

    def _was_stopped(self, outcome: StepFailedError | None) -> bool:
        """Whether a task without a result owes that to Ctrl-C."""
        return self._end_by is not None and (outcome is None or outcome.transient)

    def _commit(self, line: PlannedStep, manifest: Manifest, run_id: str | None) -> None:
        del self._open[line.name]
        self._manifests[line.name] = manifest
        if self._tracker is not None:
            self._tracker.end_step(line.name, "FINISHED", manifest)
        self._report(line, Status.EXECUTED, manifest=manifest, run_id=run_id, reason="; ".join(line.reasons))
        self._emit(events.StepFinished(line.name, manifest.seconds, cached=False, metrics=manifest.metrics))

    def _fail(self, line: PlannedStep, error: StepFailedError, run_id: str | None) -> None:
        """Another attempt, or the end of this step."""
        tries = self._tries[line.name] = self._tries[line.name] - error.is_preemption
        if error.transient and tries < line.step.resources.max_attempts:
            pause = max(self._options.backoff_s * 2 ** (tries - 1), 2 * EXIT_DELAY_S * error.is_preemption)
            self._not_before[line.name] = time.monotonic() + pause
            self._emit(events.StepFailed(line.name, error, retry_in_s=pause))
            return
        del self._open[line.name]
        self._unmade.add(line.name)
        self.outcome.errors[line.name] = error
        self._report(line, Status.FAILED, run_id=run_id, reason=error.error)
        self._emit(events.StepFailed(line.name, error))
        if not self._options.keep_going and self._allowed is None:
            self._allowed = {name for name, other in self._open.items() if self._could_start(other)}

    def _could_start(self, line: PlannedStep) -> bool:
        """Whether all its upstream is committed."""
        return all(item.name in self._manifests for item in line.step.upstream())

    def _end_run(self, name: str, status: str) -> None:
        if self._tracker is not None:
            self._tracker.end_step(name, status)

    def _drain(self) -> None:
        """Passes on what the steps recorded."""
        assert self._tasks is not None
        self._drained = time.monotonic()
        for batch in self._tasks.batches():
            if self._tracker is not None:
                self._tracker.log_records(batch)
            if batch.progress is not None:
                done, total, info = batch.progress
                self._emit(events.StepProgress(batch.step, done, total, info))

    def _report(self, line: PlannedStep, status: Status, **about: Any) -> None:
        manifest = about.get("manifest")
        self.outcome.steps[line.name] = StepResult(
            step=line.name,
            fingerprint=line.fingerprint,
            status=status,
            seconds=manifest.seconds if manifest is not None else 0.0,
            **about,
        )
