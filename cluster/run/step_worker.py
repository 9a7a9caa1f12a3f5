"""Runs one step in a worker process: acquires its lease, commits its result, or returns the failure."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from cluster.errors import LeaseHeldError, LeaseLostError, PreemptedError, StepFailedError, StoreError, is_transient
from cluster.parallel.process_state import redirect_output, restored_process, set_num_threads
from cluster.parallel.streaming import map_batches
from cluster.parallel.worker_signals import StopRequest
from cluster.redaction import redact
from cluster.run.attempt_logs import AttemptLog, finish_left_logs
from cluster.run.watchdog import Watchdog, is_shutting_down
from cluster.steps.code_digests import versions
from cluster.steps.functions import resolve
from cluster.steps.source_files import SourceFiles
from cluster.steps.task_spec import TaskSpec, build_inputs
from cluster.store.base import StagedResult, Store
from cluster.store.lease import Owner, supersede, take
from cluster.store.location import open_store
from cluster.store.manifest import FileEntry, Manifest
from cluster.store.upstream import Upstream
from cluster.tracking.recorder import AttemptStart, BatchRecorder, LogBatch

Send: TypeAlias = Callable[[LogBatch], bool]
"""Sends what a step recorded to the driver. Returns False if that failed."""


@dataclass(frozen=True, slots=True)
class CommittedByOther:
    """The result that another driver committed since the plan was made."""

    manifest: Manifest


Outcome: TypeAlias = Manifest | CommittedByOther | StepFailedError | LeaseHeldError | LeaseLostError
"""How a task ends: with a new result, the one of another driver, a failure, or without the lease."""


def run_step(spec: TaskSpec, send: Send, upstream: tuple[Manifest, ...]) -> Outcome:
    """Acquires the lease of a step, runs the step and commits its result.

    The lease is released after a commit. After a failure the driver releases it, when it has stored the failure.

    Args:
        spec: The step.
        send: Sends records to the driver.
        upstream: Manifests of all steps that it reads.

    Returns:
        The outcome. A failure is a value, because the exception of a step may not survive pickling.
    """
    try:
        if is_shutting_down():
            raise PreemptedError
        store = open_store(spec.store)
        slot = store.slot(spec.step, spec.key.fingerprint)
        if spec.rival is None:
            take(slot, spec.lease, spec.step, lambda lease: lease.owner.is_dead() or lease.token == spec.expired_token)
        manifest = _usable_result(spec, store, upstream) if spec.rival is None else None
        outcome = _run_attempt(spec, store, send, upstream) if manifest is None else CommittedByOther(manifest)
    except (LeaseHeldError, LeaseLostError) as error:
        return error
    except Exception as error:  # the store is unreachable, or its disk is full
        return _failure(spec, error)
    if not isinstance(outcome, StepFailedError):
        with suppress(OSError, StoreError):  # it expires without the heartbeats of the driver
            slot.compare_and_swap(spec.lease.token, None)
    return outcome


def _usable_result(spec: TaskSpec, store: Store, upstream: tuple[Manifest, ...]) -> Manifest | None:
    """Returns a result that fits the upstream results, if another driver has committed one."""
    if spec.forced:
        return None
    manifest = store.inspect(spec.step, spec.key.fingerprint, spec.verify).manifest
    if manifest is None:
        return None
    digests = manifest.upstream_digests
    return manifest if all(digests.get(item.step) == item.content_digest for item in upstream) else None


def next_attempt(spec: TaskSpec, store: Store) -> AttemptStart:
    """Returns the attempt that follows the last failure, or its rival. The caller or the rival holds the lease."""
    last_failure = store.failure(spec.step, spec.key.fingerprint)
    attempt = 1 if last_failure is None else last_failure.attempt + 1
    if spec.rival is not None:
        attempt = max(attempt, spec.rival.attempt + 1)
    log = store.log_path(spec.step, spec.key.fingerprint, attempt)
    return AttemptStart(attempt, spec.lease.token, store.uri_of(log), spec.run_id)


def _run_attempt(
    spec: TaskSpec, store: Store, send: Send, upstream: tuple[Manifest, ...]
) -> Manifest | StepFailedError:
    """Runs the step, with its output in a log."""
    start = next_attempt(spec, store)
    log = AttemptLog(
        step=spec.step,
        fingerprint=spec.key.fingerprint,
        attempt=start.attempt,
        token=spec.lease.token,
        worker=Owner.current(),
        rival=_rival_token(spec),
    )
    finish_left_logs(store)
    try:
        with (
            log.open(store) as path,
            restored_process(),
            redirect_output(path),
            BatchRecorder(spec.step, send, start) as recorder,
        ):
            return _Attempt(spec, store, recorder, start, upstream, log).run()
    except OSError as error:
        # The log itself cannot be written, for example because the disk is full.
        return _failure(spec, error, start)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt to run a step."""

    spec: TaskSpec
    store: Store
    recorder: BatchRecorder
    start: AttemptStart
    upstream: tuple[Manifest, ...]
    log: AttemptLog

    def run(self) -> Manifest | StepFailedError:
        """Runs and commits the step under its lease."""
        spec, staged = self.spec, None
        try:
            slot = self.store.slot(spec.step, spec.key.fingerprint)
            with Watchdog(slot, spec.lease.token, spec.ttl_s, _rival_token(spec)) as watchdog:
                watchdog.clean_up = self._clean_up
                try:
                    sources = SourceFiles(spec)
                    set_num_threads(spec.resources.cpus)
                    staged = self.store.begin(
                        spec.step,
                        spec.key.fingerprint,
                        spec.lease.token,
                        has_workers=spec.resources.has_ranks,
                        rival=_rival_token(spec),
                    )
                    if spec.rival is not None:
                        staged.claim = partial(supersede, slot, spec.rival.token, spec.lease, spec.step)
                    return self._compute_and_commit(staged, watchdog, sources)
                except KeyboardInterrupt:
                    if watchdog.lease_lost:
                        raise LeaseLostError(spec.step) from None
                    if watchdog.is_preempted:
                        raise PreemptedError from None
                    raise
        except LeaseLostError:
            raise
        except (Exception, SystemExit) as error:
            failure = _failure(spec, error, self.start)
            with suppress(OSError):
                print(failure.trace, file=sys.stderr)  # noqa: T201  (goes to the log of the step)
            return failure
        finally:
            if staged is not None:
                staged.discard()

    def _clean_up(self) -> None:
        """Redacts the log, which the process can no longer do at the end of the step."""
        self.log.redact(self.store)

    def _compute_and_commit(self, staged: StagedResult, watchdog: Watchdog, sources: SourceFiles) -> Manifest:
        started = time.monotonic()
        watchdog.stop_request = StopRequest(staged.checkpoint_dir)
        watchdog.stop_request.clear()
        result = self._compute(staged, watchdog)

        def build_manifest(plain_result: Any, files: Mapping[str, FileEntry]) -> Manifest:
            return Manifest(
                step=self.spec.step,
                fingerprint=self.spec.key.fingerprint,
                key=dict(self.spec.key.components),
                files=files,
                upstream_digests={item.step: item.content_digest for item in self.upstream},
                result=plain_result,
                metrics=dict(self.recorder.last),
                run_id=self.spec.run_id,
                seconds=round(time.monotonic() - started, 3),
                committed_at=time.time(),
                attempt=self.start.attempt,
                host=os.uname().nodename,
                versions=dict(versions()),
                provenance=dict(self.spec.provenance),
            )

        sources.check()
        with watchdog.committing():
            return staged.commit(result, build_manifest)

    def _compute(self, staged: StagedResult, watchdog: Watchdog) -> Any:
        """Calls the function of the step, here or on its own workers. Returns what it returns."""
        spec, resources = self.spec, self.spec.resources
        upstream = Upstream(spec.store, self.upstream)
        if resources.has_ranks:
            from cluster.parallel import launcher, workplace  # noqa: PLC0415  (torch, which many steps do not need)

            log = self.log.path(self.store)
            files = workplace.StepFiles(out=staged.out, checkpoint_dir=staged.checkpoint_dir, log=log)
            job = launcher.Job(spec, upstream, files, self.recorder.send)
            finished = launcher.run(job, self.recorder, watchdog.guard)
            staged.uploaded = finished.uploaded
            return finished.result
        function = resolve(spec.run)
        engine = resolve(spec.engine)(
            checkpoint_dir=staged.checkpoint_dir,
            graceful_stop=StopRequest(staged.checkpoint_dir).graceful_stop,
            map_batches=partial(map_batches, resources, upstream) if resources.strategy == "stream" else None,
        )
        inputs = build_inputs(function, spec.step, spec.roles, upstream.folders())
        return function(spec.config.load(), inputs, staged.out, self.recorder, engine)


def _rival_token(spec: TaskSpec) -> str:
    """Returns the token of the attempt that runs on another node; empty if there is none."""
    return "" if spec.rival is None else spec.rival.token


def _failure(spec: TaskSpec, error: BaseException, start: AttemptStart | None = None) -> StepFailedError:
    remedy = getattr(error, "remedy", "")
    problem = getattr(error, "problem", "") if remedy else ""
    if not remedy and isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = "Free some disk space and run again: committed results are kept."
    # Leave out the first frames, which are in this module.
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename == __file__:
        first = first.tb_next
    trace = traceback.format_exception(type(error), error, first or error.__traceback__)
    return StepFailedError(
        spec.step,
        redact(problem or "".join(traceback.format_exception_only(error)).strip()),
        remedy=redact(remedy),
        trace=redact("".join(trace)),
        log=start.log if start else "",
        transient=is_transient(error),
        is_preemption=getattr(error, "is_preemption", False),
        attempt=start.attempt if start else 1,
    )
