"""Maps batches over many workers with Ray Data: in order, each batch once, in constant memory.

One reader at a time yields batches. Each batch is one row of Ray Data and one block, so the content of a batch depends
neither on the number of workers nor on where the stream began. Workers are an actor pool; each builds its function
once. Ray Data starts no more tasks than the consumer and the object store accept (back-pressure), and recomputes a
batch whose worker died. Exceptions of readers and functions are returned as values, because Ray Data keeps only their
text.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.errors import WorkersLostError
from cluster.parallel.carried import Carried
from cluster.parallel.process_state import set_num_threads
from cluster.steps.step import Resources
from cluster.store.upstream import Upstream

ReadBatches = Callable[[Any], Iterable[Any]]
MakeFunction = Callable[[], Callable[[Any], Any]]
PackedRow = dict[str, Any]
"""A row of Ray Data, or a batch of one such row: the pickled value under `value`."""


def map_batches(
    resources: Resources, upstream: Upstream, sources: Sequence[Any], read: ReadBatches, make_fn: MakeFunction
) -> Iterator[Any]:
    """Yields the result of a function for every batch, in order. See `stages.common.protocols.Engine.map_batches`.

    Args:
        resources: Number of workers, and the resources of each.
        upstream: The results of which `read` and `make_fn` may have paths. Other machines fetch them.
        sources: Arguments of `read`.
        read: Yields the batches of a source.
        make_fn: Called once in each worker; returns the function.

    Raises:
        WorkersLostError: Ray Data gave up. Exceptions of `read`, `make_fn` and the function are raised unchanged.
    """
    if not sources:
        return
    # Ray reads its environment when it is imported, and the session sets it.
    from ray.exceptions import RayError  # noqa: PLC0415  (a worker imports Ray first, with its environment)

    try:
        for row in _dataset(resources, sources, Carried.of(read, upstream), Carried.of(make_fn, upstream)).iter_rows():
            value = pickle.loads(row["value"])
            if isinstance(value, _Failure):
                raise value.error
            yield value
    except RayError as error:
        raise WorkersLostError(str(error).strip().splitlines()[-1]) from error


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception that travels as a value to the consumer of the stream."""

    error: Exception

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return cls(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(error)


def _dataset(resources: Resources, sources: Sequence[Any], read: Carried, make_fn: Carried) -> Any:
    import ray.data  # noqa: PLC0415  (see `map_batches`)

    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # one row per block, so that no worker waits for a second batch
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        rows = [{"value": pickle.dumps(source)} for source in sources]
        batches = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            partial(_read, read), batch_size=1, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=1)
        )
        return batches.map_batches(
            _Worker,
            fn_constructor_args=(make_fn, resources.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=resources.workers),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )


def _read(read: Carried, row: PackedRow) -> Iterator[PackedRow]:
    """In a Ray task: yields the batches of one source."""
    try:
        for batch in read.load()(_unpack(row)):
            yield _pack(batch)
    except Exception as error:
        yield _pack(_Failure.of(error))


class _Worker:
    """In a Ray actor: builds the function once and applies it to batches."""

    def __init__(self, make_fn: Carried, cpus: float) -> None:
        set_num_threads(cpus)
        try:
            self._function = make_fn.load()()
        except Exception as error:
            failure = _Failure.of(error)
            self._function = lambda _: failure

    def __call__(self, row: PackedRow) -> PackedRow:
        batch = _unpack(row)
        try:
            return _pack(batch if isinstance(batch, _Failure) else self._function(batch))
        except Exception as error:
            return _pack(_Failure.of(error))


def _pack(value: Any) -> PackedRow:
    return {"value": [pickle.dumps(value)]}


def _unpack(row: PackedRow) -> Any:
    return pickle.loads(row["value"][0])
