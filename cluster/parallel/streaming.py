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
from pathlib import Path
from typing import Any

from cluster.errors import WorkersLostError
from cluster.parallel.process import InProcessEngine, set_num_threads
from cluster.steps.step import Resources

Read = Callable[[Any], Iterable[Any]]
Make = Callable[[], Callable[[Any], Any]]
Packed = dict[str, Any]
"""A row of Ray Data, or a batch of one such row: the pickled value under `value`."""


class StreamingEngine(InProcessEngine):
    """The engine of a step whose batches go to workers of their own. See `stages.common.protocols.Engine`."""

    def __init__(self, checkpoint_dir: Path, resources: Resources) -> None:
        super().__init__(checkpoint_dir)
        self._resources = resources

    def map_batches(self, sources: Sequence[Any], read: Read, make_fn: Make) -> Iterator[Any]:
        """What the workers make of every batch, in order.

        Raises:
            WorkersLost: Ray Data gave up; or what `read`, `make_fn` or the function raised.
        """
        if not sources:
            return
        from ray.exceptions import RayError

        try:
            for row in _dataset(sources, read, make_fn, self._resources).iter_rows():
                value = pickle.loads(row["value"])
                if isinstance(value, _Failure):
                    raise value.error
                yield value
        except RayError as error:
            raise WorkersLostError(str(error).strip().splitlines()[-1]) from error


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception on its way to whoever reads the stream."""

    error: Exception

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return cls(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(error)


def _dataset(sources: Sequence[Any], read: Read, make: Make, resources: Resources) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # a row is a block: workers share out batches, and none waits for a second
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        packed = [{"value": pickle.dumps(source)} for source in sources]
        batches = ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
            partial(_read, read), batch_size=1, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=1)
        )
        return batches.map_batches(
            _Worker,
            fn_constructor_args=(make, resources.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=resources.workers),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )


def _read(read: Read, row: Packed) -> Iterator[Packed]:
    """In a task: the batches of one source."""
    try:
        for batch in read(_unpacked(row)):
            yield _packed(batch)
    except Exception as error:
        yield _packed(_Failure.of(error))


class _Worker:
    """In an actor: the function, made once."""

    def __init__(self, make: Make, cpus: float) -> None:
        set_num_threads(cpus)
        try:
            self._function = make()
        except Exception as error:
            failure = _Failure.of(error)
            self._function = lambda _: failure

    def __call__(self, row: Packed) -> Packed:
        batch = _unpacked(row)
        try:
            return _packed(batch if isinstance(batch, _Failure) else self._function(batch))
        except Exception as error:
            return _packed(_Failure.of(error))


def _packed(value: Any) -> Packed:
    return {"value": [pickle.dumps(value)]}


def _unpacked(row: Packed) -> Any:
    return pickle.loads(row["value"][0])
