"""The engine of a single process: one device, no other workers, checkpoints in a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

GracefulStop = Callable[[], AbstractContextManager[Callable[[], bool]]]
MapBatches = Callable[
    [Sequence[Any], Callable[[Any], Iterable[Any]], Callable[[], Callable[[Any], Any]]], Iterator[Any]
]
ENGINE = "stages.common.engine:InProcessEngine"
"""Name of the engine, under which the caller of a stage imports it."""


class InProcessEngine:
    """Computes in this process. See `stages.common.protocols.Engine` for the methods.

    Args:
        checkpoint_dir: Folder for checkpoints; None: the stage writes none.
        graceful_stop: Implements `Engine.graceful_stop`; None: a stop request ends the process at once.
        map_batches: Implements `Engine.map_batches`; None: this process maps one batch after another.
    """

    def __init__(
        self,
        checkpoint_dir: Path | None = None,
        graceful_stop: GracefulStop | None = None,
        map_batches: MapBatches | None = None,
    ) -> None:
        self.rank = 0
        self.world_size = 1
        self.checkpoint_dir = checkpoint_dir
        self._graceful_stop = graceful_stop or _never_stop
        self._map_batches = map_batches or map_sequentially

    def load_frozen(
        self,
        load_model: Callable[[], Any],
        *,
        bf16: bool,
        largest_weight: Callable[[], int],
        find_units: Callable[[Any], Sequence[Any]],
    ) -> Any:
        """Loads the model into this process."""
        del bf16, largest_weight, find_units
        return load_model()

    def load_trained(self, load_model: Callable[[], Any], *, find_units: Callable[[Any], Sequence[Any]]) -> Any:
        """Loads the model into this process."""
        del find_units
        return load_model()

    def register_parameters(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the parameters: one process updates all of them."""
        return parameters

    def forward(self, compute: Callable[[], Any], *, is_last: bool) -> Any:
        """Computes a loss."""
        del is_last
        return compute()

    def backward(self, loss: Any) -> None:
        """Computes the gradients of a scalar tensor."""
        loss.backward()

    def clip_grad_norm(self, parameters: Mapping[str, Any], max_norm: float) -> float:
        """Clips the gradients. Returns their norm before clipping."""
        import torch  # noqa: PLC0415  (stages without a model do not need torch)

        return float(torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm))

    def optimizer_step(self, optimizer: Any) -> None:
        """Updates the parameters and clears their gradients."""
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the optimizer state for a checkpoint."""
        return dict(optimizer.state_dict())

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Restores the optimizer state of a checkpoint."""
        optimizer.load_state_dict(state)

    def all_reduce_sum(self, tensor: Any) -> Any:
        """Returns the tensor, because there is one worker."""
        return tensor

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """Yields the result of a function for every batch of every source, in order."""
        return self._map_batches(sources, read, make_fn)

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        """Defers stop requests inside the block. Yields a function that returns True after one."""
        return self._graceful_stop()


def map_sequentially(
    sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
) -> Iterator[Any]:
    """Yields the result of a function for every batch of every source, in this process."""
    if sources:
        function = make_fn()
        for source in sources:
            yield from map(function, read(source))


def _never_stop() -> AbstractContextManager[Callable[[], bool]]:
    return nullcontext(lambda: False)
