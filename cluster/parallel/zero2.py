"""ZeRO-2: every worker has all trained weights, but gradients and optimizer moments of a part only.

Source: Rajbhandari et al., SC 2020, https://arxiv.org/abs/1910.02054. With AdamW in float32 one of N workers needs
4 + 12 / N bytes per weight instead of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist


class Zero2Partition:
    """Who owns which parameter, and the sums that go to the owners while a pass runs backwards.

    Gradients are summed in an order that all workers keep, whatever order they become ready in: messages of different
    parameters would meet else.
    """

    def __init__(self, parameters: Sequence[Any], of_group: Callable[[Any], Any]) -> None:
        """
        Args:
            parameters: What is trained, in the same order on every worker.
            of_group: Moves a tensor to where the group sends from.
        """

        self._rank = dist.get_rank()
        self._of_group = of_group
        self._parameters = list(reversed(parameters))  # about the order in which gradients become ready
        self._owners = owners([parameter.numel() for parameter in self._parameters], dist.get_world_size())
        self._ready: set[int] = set()
        self._next = 0
        places = {id(parameter): place for place, parameter in enumerate(self._parameters)}
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(lambda ready: self._is_ready(places[id(ready)]))

    @property
    def owned(self) -> list[Any]:
        """The parameters that this worker owns."""
        return [item for item, owner in zip(self._parameters, self._owners, strict=True) if owner == self._rank]

    def end_pass(self) -> None:
        """Sums what is left: a parameter that this pass did not touch counts as zero."""
        while self._next < len(self._parameters):
            self._sum_next()
        self._ready.clear()
        self._next = 0

    def spread(self) -> None:
        """Sends every parameter from its owner to all, after the owners' steps."""

        for parameter, owner in zip(self._parameters, self._owners, strict=True):
            moved = self._of_group(parameter.detach())
            dist.broadcast(moved, src=owner)
            if owner != self._rank and moved.data_ptr() != parameter.data_ptr():
                parameter.detach().copy_(moved)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's whole state on the first worker, as `state_dict` would give it; elsewhere this worker's."""

        state: dict[str, Any] = optimizer.state_dict()
        parts: list[Any] | None = [None] * dist.get_world_size() if self._rank == 0 else None
        dist.gather_object(state["state"], parts)
        return {**state, "state": {place: value for part in parts or [state["state"]] for place, value in part.items()}}

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Takes this worker's part of a whole state."""
        optimizer.load_state_dict(state)
        kept = {id(parameter) for parameter in self.owned}
        for parameter in list(optimizer.state):
            if id(parameter) not in kept:
                del optimizer.state[parameter]

    def _is_ready(self, place: int) -> None:
        self._ready.add(place)
        while self._next in self._ready:
            self._sum_next()

    def _sum_next(self) -> None:
        """Sums one gradient at its owner; nobody else keeps it."""

        parameter, owner = self._parameters[self._next], self._owners[self._next]
        self._next += 1
        if not parameter.requires_grad:  # held still for now, on all workers alike
            return
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        moved = self._of_group(gradient)
        dist.reduce(moved, dst=owner)
        parameter.grad = moved.to(parameter.device) if owner == self._rank else None


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """The owner of each parameter: the largest first, each to whoever has least."""
    found, loads = [0] * len(sizes), [0] * num_workers
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        found[place] = loads.index(min(loads))
        loads[found[place]] += sizes[place]
    return found
