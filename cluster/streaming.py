"""A stream of batches through many workers, over Ray Data: in order, each batch once, in constant memory.

One reader at a time yields batches; each is a row of Ray Data and a block by itself, so that what a batch holds depends
neither on the number of workers nor on where a stream began. Workers are an actor pool: each makes its function once.
Ray Data starts no more than the consumer and the object store take (back-pressure), and computes a batch again whose
worker died.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import WorkersLost
from cluster.step import Resources
from cluster.worker import StepEngine, set_threads

Read = Callable[[Any], Iterable[Any]]
Make = Callable[[], Callable[[Any], Any]]


class StreamingEngine(StepEngine):
    """The engine of a step whose batches go to workers of their own. See `stages.protocols.Engine`."""

    def __init__(self, work: Path, resources: Resources) -> None:
        super().__init__(work)
        self._resources = resources

    def stream(self, sources: Sequence[Any], read: Read, make: Make) -> Iterator[Any]:
        """What the workers make of every batch, in order.

        Raises:
            WorkersLost: Ray Data gave up; else what `read` or the function raised, if it brings a remedy.
        """
        if not sources:
            return
        from ray.exceptions import RayError

        try:
            for row in _dataset(sources, read, make, self._resources).iter_rows():
                yield pickle.loads(row["batch"])
        except RayError as error:
            raise _cause(error) from error


def _dataset(sources: Sequence[Any], read: Read, make: Make, resources: Resources) -> Any:
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # a row is a block: workers share out batches, and none waits for a second
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        packed = [{"batch": pickle.dumps(source)} for source in sources]
        batches = ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
            partial(_read, read), batch_size=1, num_cpus=0, concurrency=1
        )
        return batches.map_batches(
            _Worker,
            fn_constructor_args=(make, resources.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=resources.workers),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )


def _read(read: Read, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """In a task: the batches of one source."""
    for batch in read(pickle.loads(row["batch"][0])):
        yield {"batch": [pickle.dumps(batch)]}


class _Worker:
    """In an actor: the function, made once."""

    def __init__(self, make: Make, cpus: float) -> None:
        set_threads(cpus)
        self._function = make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"batch": [pickle.dumps(self._function(pickle.loads(row["batch"][0])))]}


def _cause(error: BaseException) -> BaseException:
    """What a reader or a function raised, if it brings a remedy; else that workers were lost."""
    found: BaseException | None = error
    while found is not None:
        inner = getattr(found, "cause", None)
        for one in (found, inner):
            if one is not None and hasattr(one, "remedy"):
                return one
        found = inner if isinstance(inner, BaseException) else found.__cause__
    return WorkersLost(str(error).strip().splitlines()[-1])
