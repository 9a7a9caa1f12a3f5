"""ZeRO-1 and ZeRO-2: each trained parameter has an owner, the worker that keeps its optimizer state and updates it.

All workers have all trained weights. With ZeRO-1 they also have all gradients; with ZeRO-2 only the owner keeps the
gradient, which is summed there during the backward pass.

Source: Rajbhandari et al., SC 2020, https://arxiv.org/abs/1910.02054. With AdamW in float32 one of N workers needs
8 + 8 / N (ZeRO-1) or 4 + 12 / N bytes (ZeRO-2) per weight instead of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class OwnedParameters:
    """Assigns every parameter to an owner.

    All workers sum the gradients in the same order, although they become ready in different orders. Otherwise messages
    of different parameters would be added up.
    """

    def __init__(
        self, parameters: Sequence[Any], to_group_device: Callable[[Any], Any], *, sums_gradients: bool
    ) -> None:
        """
        Args:
            parameters: The trained parameters, in the same order on every worker.
            to_group_device: Moves a tensor to the device from which the process group sends.
            sums_gradients: True to sum each gradient on its owner during the backward pass (ZeRO-2). If False, the
                caller gives every worker the sum (ZeRO-1).
        """
        self._rank = dist.get_rank()
        self._to_group_device = to_group_device
        self._sums_gradients = sums_gradients
        self._parameters = list(reversed(parameters))  # roughly the order in which gradients become ready
        self._owners = owners([parameter.numel() for parameter in self._parameters], dist.get_world_size())
        self._ready: set[int] = set()
        self._next = 0
        self._used = torch.zeros(len(self._parameters), dtype=torch.int64)
        """1 for every parameter with a gradient in a pass since the last update."""
        indices = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda ready: self._on_ready(indices[id(ready)]))
            for parameter in self._parameters
            if sums_gradients
        ]

    def close(self) -> None:
        """Removes the hooks, so that the parameters can be trained again."""
        for hook in self._hooks:
            hook.remove()

    def end_pass(self) -> None:
        """Sums the remaining gradients; a parameter that this pass did not use counts as zero."""
        if not self._sums_gradients:
            return
        while self._next < len(self._parameters):
            self._sum_next()
        self._ready.clear()
        self._next = 0

    def keep_owned(self) -> list[Any]:
        """Drops the gradients of all other workers, and of parameters that no worker used. Returns what is left."""
        if self._sums_gradients:
            used = self._to_group_device(self._used)
            dist.all_reduce(used)
            is_used = used.tolist()
            self._used.zero_()
        else:
            is_used = [1] * len(self._parameters)
        for parameter, owner, num_used in zip(self._parameters, self._owners, is_used, strict=True):
            if owner != self._rank or not num_used:
                parameter.grad = None
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def spread(self) -> None:
        """Sends every parameter from its owner to all workers, after the owners updated them."""
        for parameter, owner in zip(self._parameters, self._owners, strict=True):
            sent = self._to_group_device(parameter.detach())
            dist.broadcast(sent, src=owner)
            if owner != self._rank and sent.data_ptr() != parameter.data_ptr():
                parameter.detach().copy_(sent)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the complete optimizer state on rank 0, in the format of `state_dict`; elsewhere the local part.

        Tensors travel one by one, and rank 0 keeps them in main memory.
        """
        state: dict[str, Any] = optimizer.state_dict()
        contents: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(contents, {index: _described(values) for index, values in state["state"].items()})
        complete = dict(state["state"])
        for owner, content in enumerate(contents[1:], 1):
            for index, values in (content or {}).items():
                if self._rank == 0:
                    complete[index] = {name: self._received(value, owner) for name, value in values.items()}
                elif self._rank == owner:
                    for value in filter(_has_dimensions, state["state"][index].values()):
                        dist.send(self._to_group_device(value.contiguous()), dst=0)
        return {**state, "state": complete}

    def _received(self, value: Any, owner: int) -> Any:
        """Returns a value of another worker's state; tensors without dimensions are in their descriptions."""
        if not isinstance(value, _Description):
            return value
        tensor = self._to_group_device(torch.empty(value.shape, dtype=value.dtype))
        dist.recv(tensor, src=owner)
        return tensor.cpu()

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Loads a complete optimizer state and drops what other workers own."""
        optimizer.load_state_dict(state)
        owned = {id(item) for item, owner in zip(self._parameters, self._owners, strict=True) if owner == self._rank}
        for parameter in list(optimizer.state):
            if id(parameter) not in owned:
                del optimizer.state[parameter]

    def _on_ready(self, index: int) -> None:
        self._ready.add(index)
        self._used[index] = 1
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


class _Description(NamedTuple):
    """A tensor that will be sent."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _described(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _Description(tuple(value.shape), value.dtype) if _has_dimensions(value) else value
        for name, value in values.items()
    }


def _has_dimensions(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """Returns the owner of each parameter: the largest parameter first, each to the worker with the least so far."""
    assigned, loads = [0] * len(sizes), [0] * num_workers
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        assigned[index] = loads.index(min(loads))
        loads[assigned[index]] += sizes[index]
    return assigned
