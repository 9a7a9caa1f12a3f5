"""The engine of a step with several workers: sums gradients; frozen models are replicated or partitioned.

ZeRO-2: every worker has all trained weights, but gradients and optimizer state of a part only.

Source: Rajbhandari et al., SC 2020, https://arxiv.org/abs/1910.02054. With AdamW in float32 one of N workers needs
4 + 12 / N bytes per weight instead of 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cluster.parallel.config import Disk, ZeroSettings
from cluster.parallel.nvme_offload import OffloadFolder
from cluster.parallel.worker_signals import HangDumper, StopRequest
from cluster.parallel.zero3 import PartitionedModel
from cluster.steps.step import Strategy


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


class DistributedEngine:
    """The engine of one worker; see `stages.common.protocols.Engine`. Needs a process group of torch.

    Args:
        checkpoint_dir: The checkpoint folder of the step, which all workers share.
        strategy: How the workers share model and optimizer.
        hang_dumper: Its timer is reset whenever the worker makes progress.
        map_batches: Implements `Engine.map_batches` in this process.
        nvme_path: Folder on a disk of each machine for the weights of zero3_offload.
    """

    def __init__(
        self,
        checkpoint_dir: Path,
        strategy: Strategy,
        hang_dumper: HangDumper,
        *,
        map_batches: Callable[..., Iterator[Any]],
        nvme_path: str | None = None,
    ) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.checkpoint_dir: Path | None = checkpoint_dir
        self._strategy = strategy
        self._hang_dumper = hang_dumper
        self._map_batches = map_batches
        self._nvme_path = nvme_path
        self._models: list[PartitionedModel] = []
        self._folders: list[OffloadFolder] = []
        self._partition: Zero2Partition | None = None

    def load_frozen(self, load_model: Callable[[], Any], *, bf16: bool, largest_weight: Callable[[], int]) -> Any:
        """Loads a frozen model, on every worker or (zero3) partitioned among them."""
        if self._strategy not in ("zero3", "zero3_offload"):
            return load_model()
        disk = None
        if self._nvme_path is not None:
            assert self.checkpoint_dir is not None
            self._folders.append(OffloadFolder(Path(self._nvme_path), self.checkpoint_dir))
            disk = Disk(folder=self._folders[-1].path, buffer_size=math.ceil(largest_weight() / self.world_size))
        settings = ZeroSettings(bf16=bf16, offload=self._strategy == "zero3_offload", disk=disk)
        self._models.append(PartitionedModel(load_model, settings))
        return self._models[-1].model

    def close(self) -> None:
        """Removes offloaded weights from the disk. The models cannot be used afterward."""
        for model in self._models:
            model.close()
        for folder in self._folders:
            folder.close()

    def register_parameters(self, parameters: Sequence[Any]) -> None:
        """Names the trained parameters; with zero2 each worker will update a part of them."""
        if self._strategy == "zero2":
            self._partition = Zero2Partition(parameters, _to_group_device)

    def backward(self, loss: Any) -> None:
        """Computes the gradients of this worker's part of the loss."""
        self._hang_dumper.reset_timer()
        loss.backward()
        if self._partition is not None:
            self._partition.end_pass()
        for model in self._models:
            model.end_pass()

    def clip_grad_norm(self, parameters: Sequence[Any], max_norm: float) -> float:
        """Sums the gradients of all workers in one message and clips them. Returns their norm before clipping."""
        if self._partition is not None:
            return self._clip_owned(self._partition.owned, max_norm)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.float().flatten() for parameter in parameters])
        dist.all_reduce(flat)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad.copy_(part.view_as(parameter))
        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))

    def optimizer_step(self, optimizer: Any) -> None:
        """Updates the parameters, to the same values on every worker, and clears their gradients."""
        optimizer.step()  # skips parameters without a gradient and keeps no state for them
        if self._partition is not None:
            self._partition.spread()
        optimizer.zero_grad(set_to_none=True)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the optimizer state for a checkpoint; it is complete on rank 0."""
        return optimizer.state_dict() if self._partition is None else self._partition.optimizer_state_dict(optimizer)

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Restores a complete optimizer state."""
        if self._partition is None:
            optimizer.load_state_dict(state)
        else:
            self._partition.load_optimizer_state_dict(optimizer, state)

    def all_reduce_sum(self, tensor: Any) -> Any:
        """Returns the sum of a tensor over all workers, on the tensor's device."""
        self._hang_dumper.reset_timer()
        total = _to_group_device(tensor.detach().clone())
        dist.all_reduce(total)
        return total.to(tensor.device)

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """Yields the result of a function for every batch. Every worker computes all batches."""
        return self._map_batches(sources, read, make_fn)

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        """Defers stop requests inside the block. Only rank 0 sees them; the training loop informs the other ranks."""
        if self.rank or self.checkpoint_dir is None:
            return nullcontext(lambda: False)
        return StopRequest(self.checkpoint_dir).graceful_stop()

    def _clip_owned(self, owned: Sequence[Any], max_norm: float) -> float:
        """Clips gradients that are summed already, each on the worker that owns its parameter."""
        gradients = [parameter.grad for parameter in owned if parameter.grad is not None]
        squares = sum((gradient.float().square().sum().cpu() for gradient in gradients), torch.zeros(()))
        norm: float = float(self.all_reduce_sum(squares)) ** 0.5
        for gradient in gradients:
            gradient.mul_(min(1.0, max_norm / (norm + 1e-6)))  # as torch's clip_grad_norm_
        return norm


def _to_group_device(tensor: Any) -> Any:
    """Moves a tensor to the GPU for NCCL, or to the CPU for gloo."""
    return tensor.cuda() if dist.get_backend() == "nccl" else tensor.cpu()
