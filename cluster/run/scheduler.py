"""Runs a graph of steps as Ray tasks: uses committed results, runs the other steps, and continues after failures."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack

from cluster.errors import LeaseHeldError, LeaseLostError, StepFailedError, StoreError
from cluster.provenance import provenance
from cluster.run import events
from cluster.run.events import EventHandler
from cluster.run.ray_session import session
from cluster.run.ray_tasks import FinishedTask, TaskPool
from cluster.run.result import RunOptions, RunResult, Status, StepResult
from cluster.run.signals import SignalHandler
from cluster.run.state import Phase, RunState, StepState
from cluster.run.watchdog import EXIT_DELAY_S
from cluster.steps.fingerprint import changed_params, config_params
from cluster.steps.plan import Plan, PlanState, plan
from cluster.steps.step import Step
from cluster.steps.task_spec import TaskSpec, input_indices
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.manifest import Manifest
from cluster.store.retries import reporting
from cluster.tracking.tracker import NullTracker, TrackedStep, Tracker

STOP_WITHIN_S = 30.0
"""Seconds that running steps get to end after Ctrl-C; a commit of many gigabytes may take a while."""
MAX_SLEEP_S = 0.2


def execute(
    steps: Plan | Iterable[Step],
    store: Store,
    options: RunOptions,
    tracker: Tracker | None = None,
    on_event: EventHandler | None = None,
    leases: Leases | None = None,
) -> RunResult:
    """Brings every selected step to a committed result. Starts Ray only if a step has to run.

    After the first Ctrl-C or SIGTERM no further step starts, commits are finished, training saves a checkpoint after
    its optimizer step, other steps are canceled and leases are released. A second signal ends the process at once.

    Args:
        steps: The plan of the run; or the leaves, or all steps, of a graph, which are then planned with `options`.
        store: The store that has the results.
        options: Which steps to run, how, and with which engine.
        tracker: Logs to MLflow; None: nothing is logged.
        on_event: Called with each event, in the main thread of the driver.
        leases: Leases of the driver, whose heartbeats the caller has started; None: those of this call.

    Raises:
        GraphError, FingerprintError: the input is invalid; no step was run.
        SessionError: Ray cannot be started.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        emit = on_event or (lambda event: None)
        signals = stack.enter_context(SignalHandler(lambda: emit(events.Interrupted(at_once=True))))
        leases = leases or stack.enter_context(Leases(options.ttl_s))
        planned = steps if isinstance(steps, Plan) else plan(steps, store, options)
        run = _Run(
            planned, store, options, leases=leases, tracker=tracker, on_event=emit, resources=stack, signals=signals
        )
        stack.enter_context(reporting(run.warn))
        while run.advance():
            run.wait()
        run.report_stopped()
    run.result.wall_s = time.monotonic() - started
    return run.result


class _Run:
    """One call of `execute`: moves every step from phase to phase until none is open."""

    def __init__(
        self,
        planned: Plan,
        store: Store,
        options: RunOptions,
        *,
        leases: Leases,
        tracker: Tracker | None,
        on_event: EventHandler,
        resources: ExitStack,
        signals: SignalHandler,
    ) -> None:
        self.result = RunResult()
        self._state = RunState(planned.lines.values())
        self._key_options = planned.key_options
        self._store = store
        self._options = options
        self._leases = leases
        self._tracker = tracker or NullTracker()
        self._emit = on_event
        self._resources = resources
        self._signals = signals
        self._tasks: TaskPool | None = None
        self._drained_at_s = 0.0
        self._reported: set[str] = set()
        """Problems of which the user was informed."""
        self._kill_at_s: float | None = None
        """After Ctrl-C: the time at which steps that still run are killed."""

    def advance(self) -> bool:
        """Settles and starts all steps that can be. Returns True if there is something left to wait for."""
        has_settled = True
        while has_settled:
            has_settled = False
            for step in self._state.ready():
                if self._signals.received:
                    break
                has_settled |= self._settle(step)
            if self._signals.received and self._state.is_open:
                self._interrupt()
                return bool(self._state.in_phase(Phase.RUNNING))
        return self._state.is_open

    def wait(self) -> None:
        """Waits for a task to end, for progress, or for another driver."""
        if reason := self._leases.restart():
            self.warn(f"the heartbeats of the leases stopped ({reason}) and were started again.")
        for problem in self._tracker.new_problems():
            self.warn(problem, "Results are not affected.")
        if self._tasks is None or not len(self._tasks):
            time.sleep(min(MAX_SLEEP_S, self._options.poll_s))
            return
        if self._tasks.lacks_machines:
            self.warn("no machine of the cluster has a CPU, so the steps wait for one.", "Start a worker of Ray.")
        finished = self._tasks.wait(self._options.poll_s)
        # Log what a step recorded before its run ends.
        if finished or time.monotonic() - self._drained_at_s > self._options.poll_s:
            self._drain()
        for task in finished:
            self._finish(task)

    def warn(self, problem: str, remedy: str = "") -> None:
        """Reports a problem that ends no step, once."""
        if problem not in self._reported:
            self._reported.add(problem)
            self._emit(events.Warned(problem, remedy))

    def report_stopped(self) -> None:
        """Reports the steps that have no result because the run was interrupted."""
        for step in self._state.steps.values():
            if step.is_open:
                step.phase = Phase.STOPPED
                if step.planned.selected:
                    self._report(step, Status.STOPPED, reason="interrupted")

    def _interrupt(self) -> None:
        """Requests running steps to end; kills them after `STOP_WITHIN_S`."""
        if self._kill_at_s is None:
            self._kill_at_s = time.monotonic() + STOP_WITHIN_S
            self.result.signal = self._signals.signal
            self._emit(events.Interrupted(tuple(item.name for item in self._state.in_phase(Phase.RUNNING))))
            if self._tasks is not None:
                self._tasks.cancel()
        elif time.monotonic() > self._kill_at_s and self._tasks is not None:
            self._tasks.cancel(force=True)

    def _close_tasks(self, tasks: TaskPool) -> None:
        """Stops what still runs if the run ends early. Called before Ray is shut down."""
        for name in tasks.steps:
            self._tracker.end_step(name, "KILLED")
        tasks.close()

    def _settle(self, step: StepState) -> bool:
        """Uses the result of a step, blocks the step or starts it. Returns True if it is no longer open."""
        planned = step.planned
        if planned.state is PlanState.BLOCKED:
            return self._block(step, "; ".join(planned.reasons))
        if planned.manifest is not None and (not planned.selected or step.fits_upstream(planned.manifest)):
            return self._use_cached(step, planned.manifest)
        if step.missing_upstream:
            return self._block(step, f"it needs {step.missing_upstream}, which has no result")
        if not step.may_start:
            failed = self.result.failed[0]
            return self._block(step, f"not started after {failed} failed; --keep-going continues with it")
        return self._start(step)

    def _use_cached(self, step: StepState, manifest: Manifest) -> bool:
        step.phase, step.manifest = Phase.COMMITTED, manifest
        if step.planned.selected:
            self._tracker.log_cached(_tracked(step), manifest)
            self._report(step, Status.CACHED, source_run_id=manifest.run_id)
            self._emit(events.StepFinished(step.name, manifest.seconds, cached=True, metrics=manifest.metrics))
        return True

    def _block(self, step: StepState, reason: str) -> bool:
        step.phase = Phase.BLOCKED
        if step.planned.selected:
            self._report(step, Status.BLOCKED, reason=reason)
            self._emit(events.StepBlocked(step.name, reason))
        return True

    def _start(self, step: StepState) -> bool:
        """Starts a step, unless the cluster is full, another driver runs it, or it failed a moment ago."""
        if time.monotonic() < step.retry_at_s or not self._has_room(step.step):
            return False
        slot = self._store.slot(step.name, step.fingerprint)
        try:
            token = self._leases.acquire(slot, step.name)
            # Another driver may have run the step after the plan was made.
            manifest = self._store.inspect(step.name, step.fingerprint, self._options.verify).manifest
            last_failure = self._store.failure(step.name, step.fingerprint)
        except LeaseHeldError as held:
            step.retry_at_s = time.monotonic() + self._options.poll_s
            if not step.is_wait_reported:
                step.is_wait_reported = True
                self._emit(events.StepWaiting(step.name, held.owner))
            return False
        except StoreError as error:
            self._leases.release(slot)
            step.num_attempts += 1
            is_transient = getattr(error, "transient", False)
            self._fail(step, StepFailedError(step.name, error.problem, remedy=error.remedy, transient=is_transient))
            return not step.is_open
        if manifest is not None and not step.planned.forced and step.fits_upstream(manifest):
            self._leases.release(slot)
            return self._use_cached(step, manifest)
        if missing := self._connected().find_missing(step.step.resources, self._store.url):
            failure = StepFailedError(step.name, missing.problem, remedy=missing.remedy)
            self._store.record_failure(step.fingerprint, failure)
            self._leases.release(slot)
            self._fail(step, failure)
            return True
        self._submit(step, token, last_failure.attempt + 1 if last_failure is not None else 1)
        return False

    def _has_room(self, step: Step) -> bool:
        if self._tasks is None or not len(self._tasks):
            return True
        if self._options.max_parallel is not None and len(self._tasks) >= self._options.max_parallel:
            return False
        return self._tasks.fits(step.resources)

    def _submit(self, step: StepState, token: str, attempt: int) -> None:
        tasks = self._connected()
        step.run_id = self._tracker.start_step(_tracked(step), attempt)
        spec = TaskSpec(
            step=step.name,
            run=step.step.run,
            config=step.step.config,
            roles=input_indices(step.step, tuple(step.upstream_manifests)),
            key=step.planned.key,
            store=self._store.url,
            token=token,
            resources=step.step.resources,
            attempt=attempt,
            run_id=step.run_id,
            files=step.step.files,
            identify=self._options.identify,
            provenance=provenance(),
            ttl_s=self._options.ttl_s,
            engine=self._options.engine,
            key_options=self._key_options,
        )
        step.phase = Phase.RUNNING
        step.num_attempts += 1
        tasks.submit(spec, tuple(step.upstream_manifests.values()))
        log = self._store.log_path(step.name, step.fingerprint, attempt)
        self._emit(events.StepStarted(step.name, attempt, self._store.uri_of(log)))

    def _connected(self) -> TaskPool:
        """Returns the tasks of Ray, which starts when the first step needs it."""
        if self._tasks is None:
            self._emit(events.RayStarting())
            capacity = self._resources.enter_context(session(self._options.address, self._options.num_cpus))
            self._signals.listen()
            self._tasks = TaskPool(capacity)
            self._resources.callback(self._close_tasks, self._tasks)
        return self._tasks

    def _finish(self, task: FinishedTask) -> None:
        """Handles the end of a task: a result, a failure that may be retried, or a stop."""
        step, outcome = self._state.steps[task.step], task.outcome
        if isinstance(outcome, Manifest):
            self._commit(step, outcome)
        elif isinstance(outcome, LeaseLostError) or self._was_stopped(outcome):
            step.phase = Phase.WAITING
            self._tracker.end_step(step.name, "KILLED")
        else:
            failure = outcome or StepFailedError(step.name, "it was canceled from outside.", remedy="Run it again.")
            self._store.record_failure(step.fingerprint, failure)
            self._tracker.end_step(step.name, "FAILED")
            self._fail(step, failure)
        self._leases.release(self._store.slot(step.name, step.fingerprint))

    def _was_stopped(self, outcome: StepFailedError | None) -> bool:
        """Returns True if a task has no result because of Ctrl-C."""
        return self._kill_at_s is not None and (outcome is None or outcome.transient)

    def _commit(self, step: StepState, manifest: Manifest) -> None:
        step.phase, step.manifest = Phase.COMMITTED, manifest
        self._tracker.end_step(step.name, "FINISHED", manifest)
        self._report(step, Status.EXECUTED, run_id=step.run_id, reason="; ".join(step.planned.reasons))
        self._emit(events.StepFinished(step.name, manifest.seconds, cached=False, metrics=manifest.metrics))

    def _fail(self, step: StepState, error: StepFailedError) -> None:
        """Schedules another attempt, or gives the step up."""
        step.num_attempts -= error.is_preemption
        if error.transient and step.num_attempts < step.step.resources.max_attempts:
            backoff_s = self._options.backoff_s * 2 ** (step.num_attempts - 1)
            pause_s = max(backoff_s, 2 * EXIT_DELAY_S * error.is_preemption)
            step.phase = Phase.WAITING
            step.retry_at_s = time.monotonic() + pause_s
            self._emit(events.StepFailed(step.name, error, retry_in_s=pause_s))
            return
        step.phase = Phase.FAILED
        is_first = not self.result.errors
        self.result.errors[step.name] = error
        self._report(step, Status.FAILED, run_id=step.run_id, reason=error.error)
        self._emit(events.StepFailed(step.name, error))
        if is_first and not self._options.keep_going:
            self._state.hold_back()

    def _drain(self) -> None:
        """Passes on what the steps recorded."""
        assert self._tasks is not None
        self._drained_at_s = time.monotonic()
        for batch in self._tasks.batches():
            self._tracker.log_records(batch)
            if batch.progress is not None:
                done, total, info = batch.progress
                self._emit(events.StepProgress(batch.step, done, total, info))

    def _report(
        self,
        step: StepState,
        status: Status,
        *,
        run_id: str | None = None,
        source_run_id: str | None = None,
        reason: str = "",
    ) -> None:
        self.result.steps[step.name] = StepResult(
            step=step.name,
            fingerprint=step.fingerprint,
            status=status,
            seconds=step.manifest.seconds if step.manifest is not None else 0.0,
            run_id=run_id,
            source_run_id=source_run_id,
            manifest=step.manifest,
            reason=reason,
        )


def _tracked(step: StepState) -> TrackedStep:
    config = config_params(step.planned.key.components.items())
    return TrackedStep(
        name=step.name,
        fingerprint=step.fingerprint,
        params=changed_params(step.step.config, config),
        kind=step.step.kind,
        reason="; ".join(step.planned.reasons),
    )
