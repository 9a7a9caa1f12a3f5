"""The engine of a single process: one device, no workers, checkpoints in a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch


class InProcessEngine:
    """One process, one device."""

    def __init__(self, checkpoint_dir: Path | None = None) -> None:
        self.rank = 0
        self.world_size = 1
        self.checkpoint_dir = checkpoint_dir

    def load_frozen(self, load_model: Callable[[], Any], *, bf16: bool, largest_weight: Callable[[], int]) -> Any:
        del bf16, largest_weight
        return load_model()

    def register_parameters(self, parameters: Sequence[Any]) -> None:
        del parameters

    def backward(self, loss: Any) -> None:
        loss.backward()

    def clip_grad_norm(self, parameters: Sequence[Any], max_norm: float) -> float:

        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))

    def optimizer_step(self, optimizer: Any) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        return dict(optimizer.state_dict())

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        optimizer.load_state_dict(state)

    def all_reduce_sum(self, tensor: Any) -> Any:
        return tensor

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        if sources:
            function = make_fn()
            for source in sources:
                yield from map(function, read(source))

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        return nullcontext(lambda: False)
