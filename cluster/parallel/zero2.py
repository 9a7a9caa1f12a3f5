"""ZeRO-2: every worker has all trained weights, but gradients and optimizer state of a part only.

Source: Rajbhandari et al., SC 2020, https://arxiv.org/abs/1910.02054. With AdamW in float32 one of N workers needs
4 + 12 / N bytes per weight instead of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist


class Zero2Partition:
    """Assigns every parameter to an owner and sums its gradients there during the backward pass.

    All workers sum the gradients in the same order, although they become ready in different orders. Otherwise messages
    of different parameters would be added up.
    """

    def __init__(self, parameters: Sequence[Any], to_group_device: Callable[[Any], Any]) -> None:
        """
        Args:
            parameters: The trained parameters, in the same order on every worker.
            to_group_device: Moves a tensor to the device from which the process group sends.
        """
        self._rank = dist.get_rank()
        self._to_group_device = to_group_device
        self._parameters = list(reversed(parameters))  # roughly the order in which gradients become ready
        self._owners = owners([parameter.numel() for parameter in self._parameters], dist.get_world_size())
        self._ready: set[int] = set()
        self._next = 0
        indices = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(lambda ready: self._on_ready(indices[id(ready)]))

    @property
    def owned(self) -> list[Any]:
        """The parameters that this worker owns."""
        return [item for item, owner in zip(self._parameters, self._owners, strict=True) if owner == self._rank]

    def end_pass(self) -> None:
        """Sums the remaining gradients; a parameter that this pass did not use counts as zero."""
        while self._next < len(self._parameters):
            self._sum_next()
        self._ready.clear()
        self._next = 0

    def spread(self) -> None:
        """Sends every parameter from its owner to all workers, after the owners updated them."""
        for parameter, owner in zip(self._parameters, self._owners, strict=True):
            sent = self._to_group_device(parameter.detach())
            dist.broadcast(sent, src=owner)
            if owner != self._rank and sent.data_ptr() != parameter.data_ptr():
                parameter.detach().copy_(sent)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the complete optimizer state on rank 0, in the format of `state_dict`; elsewhere the local part."""
        state: dict[str, Any] = optimizer.state_dict()
        parts: list[Any] | None = [None] * dist.get_world_size() if self._rank == 0 else None
        dist.gather_object(state["state"], parts)
        return {**state, "state": {index: value for part in parts or [state["state"]] for index, value in part.items()}}

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Loads a complete optimizer state and drops what other workers own."""
        optimizer.load_state_dict(state)
        owned = {id(parameter) for parameter in self.owned}
        for parameter in list(optimizer.state):
            if id(parameter) not in owned:
                del optimizer.state[parameter]

    def _on_ready(self, index: int) -> None:
        self._ready.add(index)
        while self._next in self._ready:
            self._sum_next()

    def _sum_next(self) -> None:
        """Sums one gradient on its owner; the other workers drop it."""
        parameter, owner = self._parameters[self._next], self._owners[self._next]
        self._next += 1
        if not parameter.requires_grad:  # frozen for now, on all workers
            return
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        total = self._to_group_device(gradient)
        dist.reduce(total, dst=owner)
        parameter.grad = total.to(parameter.device) if owner == self._rank else None


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """Returns the owner of each parameter: the largest parameter first, each to the worker with the least so far."""
    assigned, loads = [0] * len(sizes), [0] * num_workers
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        assigned[index] = loads.index(min(loads))
        loads[assigned[index]] += sizes[index]
    return assigned
