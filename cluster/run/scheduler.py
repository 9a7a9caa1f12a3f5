"""Runs a graph of steps as Ray tasks: uses committed results, runs the other steps, and continues after failures."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from cluster.errors import LeaseHeldError, LeaseLostError, StepFailedError, StoreError
from cluster.provenance import provenance
from cluster.run import events
from cluster.run.attempt_logs import finish_left_logs
from cluster.run.events import EventHandler
from cluster.run.ray_session import session
from cluster.run.ray_tasks import MAX_TASKS, FinishedTask, TaskPool
from cluster.run.result import RunOptions, RunResult, Status, StepResult
from cluster.run.second_attempts import SecondAttempts
from cluster.run.signals import SignalHandler
from cluster.run.speculation import Speculation
from cluster.run.state import Phase, RunState, StepState
from cluster.run.step_worker import CommittedByOther
from cluster.run.watchdog import EXIT_DELAY_S
from cluster.steps.fingerprint import changed_params, config_params
from cluster.steps.plan import Plan, PlanState, plan
from cluster.steps.step import Step
from cluster.steps.task_spec import LateConfig, TaskSpec, input_indices
from cluster.store.base import Store
from cluster.store.lease import Lease, LeaseBackend, Leases, new_token
from cluster.store.manifest import Manifest
from cluster.store.retries import reporting
from cluster.store.sole_driver import sole_driver
from cluster.tracking.recorder import AttemptStart, LogBatch
from cluster.tracking.tracker import NullTracker, TrackedStep, Tracker

STOP_WITHIN_S = 30.0
"""Seconds that running steps get to end after Ctrl-C; a commit of many gigabytes may take a while."""
MAX_SLEEP_S = 0.2
QUEUED_AFTER_S = 3.0
"""How long a step waits in Ray's queue before that is shown."""


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
        StoreError: a step has to run, and the store accepts a single driver, which is another one.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        emit = on_event or (lambda event: None)
        signals = stack.enter_context(SignalHandler(lambda: emit(events.Interrupted(at_once=True))))
        finish_left_logs(store)
        leases = leases or stack.enter_context(Leases(options.ttl_s))
        planned = steps if isinstance(steps, Plan) else plan(steps, store, options)
        run = _Run(planned, store, options, leases=leases, tracker=tracker, on_event=emit, stack=stack, signals=signals)
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
        stack: ExitStack,
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
        self._stack = stack
        self._signals = signals
        self._tasks: TaskPool | None = None
        self._queued: deque[tuple[float, StepState]] = deque()
        """Submitted steps, and the time after which they are reported if they still wait."""
        self._reported: set[str] = set()
        """Problems of which the user was informed."""
        self._second = SecondAttempts(self._speculation())
        self._kill_at_s: float | None = None
        """After Ctrl-C: the time at which steps that still run are killed."""

    def advance(self) -> bool:
        """Settles and submits all steps that can be. Returns True if there is something left to wait for."""
        while not self._signals.received and (step := self._state.pop_ready()) is not None:
            self._settle(step)
        while not self._signals.received and self._has_room():
            if (runnable := self._state.pop_runnable(time.monotonic())) is None:
                break
            self._submit(runnable)
        if self._signals.received and self._state.num_open:
            self._interrupt()
            return self._tasks is not None and len(self._tasks) > 0
        return self._state.num_open > 0 or self._second.awaits_losers

    def wait(self) -> None:
        """Waits for a task to end, for records, or for another driver."""
        if reason := self._leases.restart():
            self.warn(f"the heartbeats of the leases stopped ({reason}) and were started again.")
        for problem in self._tracker.new_problems():
            self.warn(problem, "Results are not affected.")
        pause_s = self._options.poll_s
        if self._state.next_deferred_s is not None and self._has_room():
            pause_s = min(pause_s, max(0.0, self._state.next_deferred_s - time.monotonic()))
        if self._tasks is None or not len(self._tasks):
            time.sleep(min(MAX_SLEEP_S, pause_s))
            return
        if self._tasks.lacks_machines:
            self.warn("no machine of the cluster has a CPU, so the steps wait for one.", "Start a worker of Ray.")
        for received in self._tasks.wait(pause_s):
            if isinstance(received, LogBatch):
                self._log(received)
            else:
                self._end(received)
        self._report_queued(self._tasks)
        self._start_again(self._tasks)

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

    def _settle(self, step: StepState) -> None:
        """Uses the result of a step, blocks the step, or makes it one of those to submit."""
        planned = step.planned
        if not step.is_open:  # it can never be scheduled
            return
        if planned.state is PlanState.BLOCKED:
            self._block(step, "; ".join(planned.reasons))
        elif planned.manifest is not None and (not planned.selected or step.fits_upstream(planned.manifest)):
            self._use_committed(step, planned.manifest)
        elif step.missing_upstream:
            self._block(step, f"it needs {step.missing_upstream}, which has no result")
        elif not step.may_start:
            failed = self.result.failed[0]
            self._block(step, f"not started after {failed} failed; --keep-going continues with it")
        else:
            self._state.add_runnable(step)

    def _use_committed(self, step: StepState, manifest: Manifest) -> None:
        """Uses a result that this run has not computed."""
        self._state.commit(step, manifest)
        if step.planned.selected:
            self._tracker.log_cached(_tracked(step), manifest)
            self._report(step, Status.CACHED, source_run_id=manifest.run_id)
            self._emit(events.StepFinished(step.name, manifest.seconds, cached=True, metrics=manifest.metrics))

    def _block(self, step: StepState, reason: str) -> None:
        self._state.end(step, Phase.BLOCKED)
        if step.planned.selected:
            self._report(step, Status.BLOCKED, reason=reason)
            self._emit(events.StepBlocked(step.name, reason))

    @property
    def _max_tasks(self) -> int:
        return min(MAX_TASKS, self._options.max_parallel or MAX_TASKS)

    def _has_room(self) -> bool:
        return self._tasks is None or len(self._tasks) < self._max_tasks

    def _submit(self, step: StepState) -> None:
        """Submits a step to Ray, which queues it; unless another driver still runs it."""
        if step.is_held and not self._is_free(step):
            return
        tasks = self._connected()
        if not step.is_open:  # it can never be scheduled
            return
        inputs = step.inputs()
        spec = TaskSpec(
            step=step.name,
            run=step.step.run,
            config=LateConfig(step.step.config),
            roles=input_indices(step.step, tuple(inputs)),
            key=step.planned.key,
            store=self._store.url,
            lease=Lease(owner=self._leases.owner, token=new_token()),
            resources=step.step.resources,
            files=step.step.files,
            identify=self._options.identify,
            locate=self._options.locate,
            provenance=provenance(),
            expired_token=step.expired_token,
            forced=step.planned.forced,
            verify=self._options.verify,
            run_id=self._tracker.next_run(step.name, step.fingerprint),
            ttl_s=self._options.ttl_s,
            engine=self._options.engine,
            key_options=self._key_options,
        )
        step.phase = Phase.QUEUED
        step.num_attempts += 1
        step.run_id = None
        tasks.submit(spec, tuple(inputs.values()))
        self._queued.append((time.monotonic() + QUEUED_AFTER_S, step))

    def _is_free(self, step: StepState) -> bool:
        """Returns True if the driver that runs a step has ended. If not, looks again later."""
        try:
            step.expired_token = self._leases.observe(self._slot(step), step.name)
        except StoreError:  # held, or the store is unreachable
            self._state.defer(step, time.monotonic() + self._options.poll_s)
            return False
        step.is_held = False
        return True

    def _report_queued(self, tasks: TaskPool) -> None:
        """Reports the steps for which Ray has had no room for a while."""
        now_s = time.monotonic()
        while self._queued and self._queued[0][0] <= now_s:
            step = self._queued.popleft()[1]
            if step.phase is Phase.QUEUED:
                self._emit(events.StepQueued(step.name, tasks.capacity.waits_for(step.step.resources)))

    def _log(self, batch: LogBatch) -> None:
        """Passes on what a step recorded."""
        step = self._state.steps[batch.step]
        if batch.started is not None:
            self._start(step, batch.started)
        if not self._second.passes(batch):
            return
        self._tracker.log_records(batch)
        if batch.progress is not None:
            done, total, info = batch.progress
            self._emit(events.StepProgress(batch.step, done, total, info))

    def _start(self, step: StepState, start: AttemptStart) -> None:
        """Takes note of an attempt that has started: from now on its lease is renewed, and its MLflow run lasts.

        A second attempt uses the lease and the MLflow run of the first one.
        """
        step.num_starts += 1
        if (ratio := self._second.ratio_of(start.token)) is not None:
            self._emit(events.StepStartedAgain(step.name, start.attempt, start.log, ratio))
            return
        step.phase = Phase.RUNNING
        self._leases.renew(self._slot(step), start.token)
        step.run_id = start.run_id
        self._tracker.start_step(_tracked(step), start.attempt, start.run_id)
        self._emit(events.StepStarted(step.name, start.attempt, start.log))

    def _slot(self, step: StepState) -> LeaseBackend:
        return self._store.slot(step.name, step.fingerprint)

    def _connected(self) -> TaskPool:
        """Returns the tasks of Ray, which starts when the first step needs it."""
        if self._tasks is None:
            self._stack.enter_context(sole_driver(self._store, self._leases))
            self._emit(events.RayStarting())
            capacity = self._stack.enter_context(session(self._options.address, self._options.num_cpus))
            self._signals.listen()
            self._tasks = TaskPool(capacity)
            self._stack.callback(self._close_tasks, self._tasks)
            self._fail_impossible(self._tasks)
        return self._tasks

    def _fail_impossible(self, tasks: TaskPool) -> None:
        """Fails all steps that no machine of the cluster can ever run. All other steps continue."""
        for step in self._state.steps.values():
            if step.phase is not Phase.WAITING or step.planned.state is not PlanState.RUN:
                continue
            if missing := tasks.find_missing(step.step.resources):
                failure = StepFailedError(step.name, missing.problem, remedy=missing.remedy)
                self._store.record_failure(step.fingerprint, failure)
                self._give_up(step, failure)

    def _end(self, received: FinishedTask) -> None:
        """Handles the end of a task, which may be one of two attempts of its step."""
        step, end = self._state.steps[received.step], self._second.end(received)
        for batch in end.records:
            self._log(batch)
        if end.problem and self._kill_at_s is None:
            self.warn(end.problem)
        if end.earlier is not None:
            self._release(step, end.earlier)
        if end.result is not None:
            self._finish(end.result)
        if end.cancel and self._tasks is not None:
            self._tasks.cancel_task(end.cancel)
        if end.loser is not None:
            self._discard(step, end.loser)

    def _start_again(self, tasks: TaskPool) -> None:
        """Starts slow steps on another node, too. Ends second attempts that are not needed."""
        for token in self._second.overdue():
            tasks.cancel_task(token)
        for token in self._second.stuck():
            tasks.cancel_task(token, force=True)
        if not self._signals.received:
            for slow in self._second.find(tasks, self._state.steps, self._max_tasks - len(tasks)):
                self._second.add(slow, tasks.submit_again(slow.task.token))

    def _speculation(self) -> Speculation | None:
        """Returns when a step gets a second attempt. None if the store cannot keep two attempts apart."""
        if self._options.speculation is not None and not self._store.accepts_many_drivers:
            self.warn(
                f"no step starts on a second node: the store {self._store.url} has no conditional writes.",
                "Use a folder that the machines share, or S3, GCS or Azure.",
            )
            return None
        return self._options.speculation

    def _discard(self, step: StepState, task: FinishedTask) -> None:
        """Removes what an attempt left whose step another attempt has committed."""
        if task.start is None and task.outcome is None:  # canceled in the queue
            return
        self._release(step, task)
        slot = self._slot(step)
        # What cannot be removed now, `gc` removes: the store is unreachable, or another driver runs the step again.
        with suppress(LeaseHeldError, StoreError, OSError):
            self._leases.acquire(slot, step.name)
            try:
                self._store.discard_attempt(step.name, step.fingerprint, task.token)
            finally:
                self._leases.release(slot)

    def _finish(self, task: FinishedTask) -> None:
        """Handles the end of a step's attempt: a result, a failure that may be retried, or a stop."""
        step, outcome = self._state.steps[task.step], task.outcome
        if isinstance(outcome, Manifest):
            self._leases.forget(self._slot(step))
            self._commit(step, outcome)
            return
        if isinstance(outcome, CommittedByOther):
            self._use_committed(step, outcome.manifest)
            return
        if isinstance(outcome, LeaseHeldError):
            self._hold(step, outcome)
            return
        if isinstance(outcome, LeaseLostError) or self._was_stopped(outcome):
            self._tracker.end_step(step.name, "KILLED")
            self._release(step, task)
            self._state.defer(step, time.monotonic())
            return
        failure = outcome or StepFailedError(step.name, "it was canceled from outside.", remedy="Run it again.")
        if task.start is not None:
            self._store.record_failure(step.fingerprint, failure)
            self._tracker.end_step(step.name, "FAILED")
        self._release(step, task)
        self._fail(step, failure)

    def _release(self, step: StepState, task: FinishedTask) -> None:
        """Releases the lease of an attempt without a result, even if its start was not reported before it crashed."""
        if task.start is None and task.outcome is None:  # canceled in the queue
            return
        self._leases.renew(self._slot(step), task.spec.lease.token)
        self._leases.release(self._slot(step))

    def _hold(self, step: StepState, error: LeaseHeldError) -> None:
        """Waits for another driver, which runs the step."""
        step.num_attempts -= 1
        if not step.was_held:
            self._emit(events.StepWaiting(step.name, error.owner))
        step.is_held = step.was_held = True
        self._state.defer(step, time.monotonic() + self._options.poll_s)

    def _was_stopped(self, outcome: StepFailedError | None) -> bool:
        """Returns True if a task has no result because of Ctrl-C."""
        return self._kill_at_s is not None and (outcome is None or outcome.transient)

    def _commit(self, step: StepState, manifest: Manifest) -> None:
        self._state.commit(step, manifest)
        self._second.add_finished(step.step, manifest.seconds)
        self._tracker.end_step(step.name, "FINISHED", step.manifest)
        self._report(step, Status.EXECUTED, run_id=step.run_id, reason="; ".join(step.planned.reasons))
        self._emit(events.StepFinished(step.name, manifest.seconds, cached=False, metrics=manifest.metrics))

    def _fail(self, step: StepState, error: StepFailedError) -> None:
        """Schedules another attempt, or gives the step up."""
        step.num_attempts -= error.is_preemption
        if error.transient and step.num_attempts < step.step.resources.max_attempts:
            backoff_s = self._options.backoff_s * 2 ** (step.num_attempts - 1)
            pause_s = max(backoff_s, 2 * EXIT_DELAY_S * error.is_preemption)
            self._state.defer(step, time.monotonic() + pause_s)
            self._emit(events.StepFailed(step.name, error, retry_in_s=pause_s))
            return
        if not self.result.errors and not self._options.keep_going:
            self._state.hold_back()
        self._give_up(step, error)

    def _give_up(self, step: StepState, error: StepFailedError) -> None:
        self.result.errors[step.name] = error
        self._report(step, Status.FAILED, run_id=step.run_id, reason=error.error)
        self._emit(events.StepFailed(step.name, error))
        self._state.end(step, Phase.FAILED)

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
            attempts=step.num_starts,
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
