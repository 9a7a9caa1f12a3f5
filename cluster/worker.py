"""Running one step in a worker process: build its inputs, keep what it prints, commit what it made, or say why not."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import gc
import os
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, GraphError, LeaseLost, Preempted, StepFailed, StoreError
from cluster.keys.fingerprint import Key, differences
from cluster.keys.source import CodeDigests
from cluster.keys.versions import versions
from cluster.masking import mask_file, masked
from cluster.passing import is_passing
from cluster.step import Resources, Step, resolve
from cluster.storage.lease import TTL_S
from cluster.storage.location import open_store
from cluster.storage.manifest import Entry, Manifest
from cluster.storage.store import Draft, Store
from cluster.tracking.recorder import Batch, BatchRecorder
from cluster.watchdog import Watchdog, is_leaving
from cluster.workers.wish import Wish


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """All that a worker needs of a step. `roles` gives, for each input, the places of its upstream in the arguments."""

    step: str
    run: str
    config: Any
    roles: Mapping[str, int | tuple[int, ...]]
    key: Key
    store: str
    token: str
    resources: Resources
    attempt: int
    run_id: str | None
    ttl_s: float = TTL_S


class StepEngine:
    """The engine of a step in one process, with a folder for its checkpoints. See `stages.protocols.Engine`."""

    def __init__(self, work: Path) -> None:
        self.rank = 0
        self.world_size = 1
        self.work: Path | None = work

    def frozen(self, make: Callable[[], Any], *, half: bool, largest: Callable[[], int]) -> Any:
        """The model as it is read."""
        del half, largest
        return make()

    def share(self, parameters: Sequence[Any]) -> None:
        """Nobody to share with."""
        del parameters

    def backward(self, loss: Any) -> None:
        """Back-propagates a scalar tensor."""
        loss.backward()

    def clip(self, parameters: Sequence[Any], max_norm: float) -> float:
        """Clips the gradients; returns their norm before."""
        import torch

        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))

    def step(self, optimizer: Any) -> None:
        """Updates the parameters and clears their gradients."""
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def moments(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state."""
        return dict(optimizer.state_dict())

    def restore(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Puts the optimizer's state back."""
        optimizer.load_state_dict(state)

    def total(self, tensor: Any) -> Any:
        """The tensor itself: there is one worker."""
        return tensor

    def stream(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """What the function makes of every batch, in this process."""
        return one_after_another(sources, read, make)

    def listening(self) -> AbstractContextManager[Callable[[], bool]]:
        """Until its end the watchdog asks first."""
        assert self.work is not None
        return Wish(self.work).listening()


def one_after_another(
    sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make: Callable[[], Callable[[Any], Any]]
) -> Iterator[Any]:
    """What a function makes of every batch of every source, in this process."""
    if sources:
        function = make()
        for source in sources:
            yield from map(function, read(source))


def work(order: Order, send: Callable[[Batch], bool], upstream: tuple[Manifest, ...]) -> Manifest | StepFailed:
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
        with captured(log), BatchRecorder(order.step, send) as recorder:
            return _attempt(order, store, recorder, store.address(log), upstream)
    except OSError as error:
        # The log itself cannot be written, as on a full disk.
        return _failure(order, error, store.address(log))
    finally:
        with suppress(OSError, StoreError):
            mask_file(log)
            store.share(log)
        _give_memory_back()


def _give_memory_back() -> None:
    """Returns freed memory to the system: workers serve many steps, and the C library keeps what models leave."""
    if "torch" not in sys.modules:  # a step without a model has nothing worth the milliseconds
        return
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _attempt(
    order: Order, store: Store, recorder: BatchRecorder, log: str, upstream: tuple[Manifest, ...]
) -> Manifest | StepFailed:
    draft: Draft | None = None
    try:
        if is_leaving():
            raise Preempted
        with Watchdog(store.slot(order.step, order.key.fingerprint), order.token, order.ttl_s) as watchdog:
            try:
                _check_code(order)
                set_threads(order.resources.cpus)
                draft = store.begin(order.step, order.key.fingerprint, order.token)
                return _run(order, store, draft, recorder, upstream, watchdog, log)
            except KeyboardInterrupt:
                if watchdog.lease_lost:
                    raise LeaseLost(order.step) from None
                if watchdog.is_preempted:
                    raise Preempted from None
                raise
    except LeaseLost:
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
    order: Order,
    store: Store,
    draft: Draft,
    recorder: BatchRecorder,
    upstream: tuple[Manifest, ...],
    watchdog: Watchdog,
    log: str,
) -> Manifest:
    started = time.monotonic()
    folders = [store.files(item.step, item.fingerprint) for item in upstream]
    function = resolve(order.run)
    inputs = build_inputs(function, order.step, order.roles, folders)
    watchdog.wish = Wish(draft.work)
    watchdog.wish.clear()
    if order.resources.strategy == "stream":
        from cluster.workers.streaming import StreamingEngine

        engine = StreamingEngine(draft.work, order.resources)
        result = function(order.config, inputs, draft.out, recorder, engine)
    elif order.resources.is_shared:
        from cluster.workers import training

        job = training.Job(order, inputs, draft.out, draft.work, log, recorder.send)
        result = training.run(job, recorder, watchdog)
    else:
        result = function(order.config, inputs, draft.out, recorder, StepEngine(draft.work))

    def manifest(shown: Any, files: dict[str, Entry]) -> Manifest:
        return Manifest(
            step=order.step,
            fingerprint=order.key.fingerprint,
            key=dict(order.key.components),
            files=files,
            made_from={item.step: item.content for item in upstream},
            result=shown,
            metrics=dict(recorder.last),
            run_id=order.run_id,
            seconds=round(time.monotonic() - started, 3),
            committed=time.time(),
            attempt=order.attempt,
            host=os.uname().nodename,
            versions=dict(versions()),
        )

    with watchdog.committing():
        return draft.commit(result, manifest)


def roles_of(step: Step, upstream: tuple[str, ...]) -> Mapping[str, int | tuple[int, ...]]:
    """For each input, where its upstream stands among the arguments of the task."""
    return {
        role: tuple(upstream.index(one.name) for one in item) if isinstance(item, tuple) else upstream.index(item.name)
        for role, item in step.inputs.items()
    }


def build_inputs(
    fn: Callable[..., Any], step: str, roles: Mapping[str, int | tuple[int, ...]], folders: list[Path]
) -> Any:
    """The dataclass that `fn` declares for its `inputs`, or a plain dict if it declares none.

    Raises:
        GraphError: the step's roles are not the dataclass's fields.
    """
    values = {
        role: tuple(folders[one] for one in place) if isinstance(place, tuple) else folders[place]
        for role, place in roles.items()
    }
    kind = typing.get_type_hints(fn).get("inputs")
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return values
    try:
        return kind(**values)
    except TypeError as error:
        fields = ", ".join(item.name for item in dataclasses.fields(kind))
        raise GraphError(
            f"step {step} has the inputs {', '.join(values) or 'none'}, and {kind.__qualname__} of "
            f"{fn.__module__} wants {fields} ({error}).",
            "Give both the same names.",
        ) from error


@contextmanager
def captured(log: Path) -> Iterator[None]:
    """Sends all that this process prints, its libraries in C included, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            # What a full disk does not take is lost, and the step is not.
            with suppress(OSError):
                stream.flush()
        for descriptor, original in enumerate(kept, 1):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(target)


def _check_code(order: Order) -> None:
    """The fingerprint is of the code as the run began; code edited since would be committed under a wrong name."""
    before = {name: value for name, value in order.key.components.items() if name.startswith("code.")}
    now = {f"code.{module}": digest for module, digest in CodeDigests().of(order.run.partition(":")[0]).items()}
    changed = differences(before, now)
    if changed:
        raise ClusterError(
            f"{'; '.join(str(item) for item in changed)} since this run began.",
            "Run the pipeline again: only what depends on this code is made anew.",
        )


def set_threads(cpus: float) -> None:
    """Sums in another order give other last digits, so the number of threads is the step's own on every machine."""
    threads = int(max(1, cpus))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # A worker that ran another step has read the variables already.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _failure(order: Order, error: BaseException, log: str) -> StepFailed:
    remedy = getattr(error, "remedy", "")
    problem = getattr(error, "problem", "") if remedy else ""
    if not remedy and isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = "Free some space and run again: what is committed stays."
    # The first frames are the engine's own.
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename == __file__:
        place = place.tb_next
    trace = traceback.format_exception(type(error), error, place or error.__traceback__)
    return StepFailed(
        order.step,
        masked(problem or "".join(traceback.format_exception_only(error)).strip()),
        remedy=masked(remedy),
        trace=masked("".join(trace)),
        log=log,
        transient=is_passing(error),
        is_asked=getattr(error, "is_asked", False),
        attempt=order.attempt,
    )
