"""Runs one step in a worker process and commits its result, or returns the failure."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster.errors import ClusterError, LeaseLostError, PreemptedError, StepFailedError, StoreError
from cluster.parallel.process import InProcessEngine, redirect_output, set_num_threads
from cluster.parallel.streaming import StreamingEngine
from cluster.parallel.worker_signals import StopRequest
from cluster.redaction import redact, redact_file
from cluster.run.transient_errors import is_transient
from cluster.run.watchdog import Watchdog, is_shutting_down
from cluster.steps.code_digests import versions
from cluster.steps.fingerprint import code_components
from cluster.steps.step import resolve
from cluster.steps.task_spec import TaskSpec, build_inputs
from cluster.store.base import StagedResult, Store
from cluster.store.location import open_store
from cluster.store.manifest import CODE_PARTS, FileEntry, Manifest, differences
from cluster.tracking.recorder import BatchRecorder, LogBatch


def run_step(
    order: TaskSpec, send: Callable[[LogBatch], bool], upstream: tuple[Manifest, ...]
) -> Manifest | StepFailedError:
    """Runs a step and commits its result.

    Args:
        order: The step.
        send: Takes what the step records.
        upstream: Manifests of all steps that it reads.

    Returns:
        The manifest, or the failure as a value, for a step's own exception may not survive the way to the driver.

    Raises:
        LeaseLost: another driver took the step over.
    """
    store = open_store(order.store)
    log = store.log_path(order.step, order.key.fingerprint, order.attempt)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with redirect_output(log), BatchRecorder(order.step, send) as recorder:
            return _attempt(order, store, recorder, store.uri_of(log), upstream)
    except OSError as error:
        # The log itself cannot be written, as on a full disk.
        return _failure(order, error, store.uri_of(log))
    finally:
        with suppress(OSError, StoreError):
            redact_file(log)
            store.upload(log)
        _give_memory_back()


def _give_memory_back() -> None:
    """Returns freed memory to the system: workers serve many steps, and the C library keeps what models leave."""
    if "torch" not in sys.modules:  # a step without a model has nothing worth the milliseconds
        return
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _attempt(
    order: TaskSpec, store: Store, recorder: BatchRecorder, log: str, upstream: tuple[Manifest, ...]
) -> Manifest | StepFailedError:
    draft: StagedResult | None = None
    try:
        if is_shutting_down():
            raise PreemptedError
        with Watchdog(store.slot(order.step, order.key.fingerprint), order.token, order.ttl_s) as watchdog:
            try:
                _check_code(order)
                set_num_threads(order.resources.cpus)
                draft = store.begin(order.step, order.key.fingerprint, order.token)
                return _run(order, store, draft, recorder, upstream, watchdog, log)
            except KeyboardInterrupt:
                if watchdog.lease_lost:
                    raise LeaseLostError(order.step) from None
                if watchdog.is_preempted:
                    raise PreemptedError from None
                raise
    except LeaseLostError:
        raise
    except (Exception, SystemExit) as error:
        failure = _failure(order, error, log)
        with suppress(OSError):
            print(failure.trace, file=sys.stderr)  # noqa: T201  (into the step's log)
        return failure
    finally:
        if draft is not None:
            draft.discard()


def _run(
    order: TaskSpec,
    store: Store,
    draft: StagedResult,
    recorder: BatchRecorder,
    upstream: tuple[Manifest, ...],
    watchdog: Watchdog,
    log: str,
) -> Manifest:
    started = time.monotonic()
    folders = [store.files(item.step, item.fingerprint) for item in upstream]
    function = resolve(order.run)
    inputs = build_inputs(function, order.step, order.roles, folders)
    watchdog.stop_request = StopRequest(draft.checkpoint_dir)
    watchdog.stop_request.clear()
    if order.resources.strategy == "stream":
        engine = StreamingEngine(draft.checkpoint_dir, order.resources)
        result = function(order.config, inputs, draft.out, recorder, engine)
    elif order.resources.is_shared:
        from cluster.parallel import launcher

        job = launcher.Job(order, inputs, draft.out, draft.checkpoint_dir, log, recorder.send)
        result = launcher.run(job, recorder, watchdog.guard)
    else:
        result = function(order.config, inputs, draft.out, recorder, InProcessEngine(draft.checkpoint_dir))

    def manifest(shown: Any, files: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            step=order.step,
            fingerprint=order.key.fingerprint,
            key=dict(order.key.components),
            files=files,
            upstream_digests={item.step: item.content_digest for item in upstream},
            result=shown,
            metrics=dict(recorder.last),
            run_id=order.run_id,
            seconds=round(time.monotonic() - started, 3),
            committed_at=time.time(),
            attempt=order.attempt,
            host=os.uname().nodename,
            versions=dict(versions()),
        )

    with watchdog.committing():
        return draft.commit(result, manifest)


def _check_code(order: TaskSpec) -> None:
    """Raises an error if the code is not the code of the plan: its result would be committed under a wrong key."""
    before = {name: value for name, value in order.key.components.items() if name.startswith(CODE_PARTS)}
    changed = differences(before, code_components(order.run, order.key_options))
    if changed:
        raise ClusterError(
            f"{'; '.join(str(item) for item in changed)} since this run started.",
            "Run the pipeline again: only steps that depend on this code run again.",
        )


def _failure(order: TaskSpec, error: BaseException, log: str) -> StepFailedError:
    remedy = getattr(error, "remedy", "")
    problem = getattr(error, "problem", "") if remedy else ""
    if not remedy and isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = "Free some space and run again: what is committed stays."
    # The first frames are the engine's own.
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename == __file__:
        place = place.tb_next
    trace = traceback.format_exception(type(error), error, place or error.__traceback__)
    return StepFailedError(
        order.step,
        redact(problem or "".join(traceback.format_exception_only(error)).strip()),
        remedy=redact(remedy),
        trace=redact("".join(trace)),
        log=log,
        transient=is_transient(error),
        is_preemption=getattr(error, "is_preemption", False),
        attempt=order.attempt,
    )
