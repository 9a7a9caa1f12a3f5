"""The engine of a single process: one device, no workers, checkpoints in a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch


class InProcessEngine:
    """One process, one device."""

    def __init__(self, work: Path | None = None) -> None:
        self.rank = 0
        self.world_size = 1
        self.work = work

    def frozen(self, make: Callable[[], Any], *, half: bool, largest: Callable[[], int]) -> Any:
        del half, largest
        return make()

    def share(self, parameters: Sequence[Any]) -> None:
        del parameters

    def backward(self, loss: Any) -> None:
        loss.backward()

    def clip(self, parameters: Sequence[Any], max_norm: float) -> float:

        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))

    def step(self, optimizer: Any) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def moments(self, optimizer: Any) -> dict[str, Any]:
        return dict(optimizer.state_dict())

    def restore(self, optimizer: Any, state: dict[str, Any]) -> None:
        optimizer.load_state_dict(state)

    def total(self, tensor: Any) -> Any:
        return tensor

    def stream(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        if sources:
            function = make()
            for source in sources:
                yield from map(function, read(source))

    def listening(self) -> AbstractContextManager[Callable[[], bool]]:
        return nullcontext(lambda: False)
