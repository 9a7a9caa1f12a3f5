"""The engine of a step with several workers: sums gradients; frozen models are whole or partitioned."""

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
from cluster.parallel.process import map_sequentially
from cluster.parallel.worker_signals import HangDumper, StopRequest
from cluster.parallel.zero2 import Zero2Partition
from cluster.parallel.zero3 import PartitionedModel
from cluster.steps.step import Strategy


class DistributedEngine:
    """One worker's engine; see `stages.common.protocols.Engine`. Needs a process group of torch."""

    def __init__(
        self, checkpoint_dir: Path, strategy: Strategy, hang_dumper: HangDumper, nvme_path: str | None = None
    ) -> None:

        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.checkpoint_dir: Path | None = checkpoint_dir
        self._strategy = strategy
        self._stack = hang_dumper
        self._nvme_path = nvme_path
        self._spread: list[PartitionedModel] = []
        self._folders: list[OffloadFolder] = []
        self._partition: Zero2Partition | None = None

    def load_frozen(self, load_model: Callable[[], Any], *, bf16: bool, largest_weight: Callable[[], int]) -> Any:
        """A frozen model, whole on every worker or (zero3) spread over them."""
        if self._strategy not in ("zero3", "zero3_offload"):
            return load_model()
        disk = None
        if self._nvme_path is not None:
            assert self.checkpoint_dir is not None
            self._folders.append(OffloadFolder(Path(self._nvme_path), self.checkpoint_dir))
            disk = Disk(folder=self._folders[-1].path, buffer_size=math.ceil(largest_weight() / self.world_size))
        spread = PartitionedModel(
            load_model, ZeroSettings(bf16=bf16, offload=self._strategy == "zero3_offload", disk=disk)
        )
        self._spread.append(spread)
        return spread.model

    def close(self) -> None:
        """Removes the weights that lie on a disk; the models are of no use then."""
        for spread in self._spread:
            spread.close()
        for folder in self._folders:
            folder.close()

    def register_parameters(self, parameters: Sequence[Any]) -> None:
        """Says what will be trained; with zero2 each worker gets a part of it to update."""
        if self._strategy == "zero2":
            self._partition = Zero2Partition(parameters, self._for_group)

    def backward(self, loss: Any) -> None:
        """Back-propagates this worker's part of the loss."""
        self._stack.reset_timer()
        loss.backward()
        if self._partition is not None:
            self._partition.end_pass()
        for spread in self._spread:
            spread.end_pass()

    def clip_grad_norm(self, parameters: Sequence[Any], max_norm: float) -> float:
        """Adds up the gradients of all workers, in one message, and clips them; returns their norm before."""

        if self._partition is not None:
            return self._clip_mine(max_norm)
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
        """Updates the parameters, alike on every worker, and clears their gradients."""
        optimizer.step()  # passes over parameters without a gradient, and keeps no moments of them
        if self._partition is not None:
            self._partition.spread()
        optimizer.zero_grad(set_to_none=True)

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state, whole on the first worker."""
        return optimizer.state_dict() if self._partition is None else self._partition.optimizer_state_dict(optimizer)

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Puts a whole state back."""
        if self._partition is None:
            optimizer.load_state_dict(state)
        else:
            self._partition.load_optimizer_state_dict(optimizer, state)

    def all_reduce_sum(self, tensor: Any) -> Any:
        """The sum of a tensor over all workers, where it was."""

        self._stack.reset_timer()
        moved = self._for_group(tensor.detach().clone())
        dist.all_reduce(moved)
        return moved.to(tensor.device)

    def map_batches(
        self, sources: Sequence[Any], read: Callable[[Any], Iterable[Any]], make_fn: Callable[[], Callable[[Any], Any]]
    ) -> Iterator[Any]:
        """What the function makes of every batch; every worker makes all of it."""
        return map_sequentially(sources, read, make_fn)

    def graceful_stop(self) -> AbstractContextManager[Callable[[], bool]]:
        """Until its end a wish is told to the first worker, which tells the others."""
        if self.rank or self.checkpoint_dir is None:
            return nullcontext(lambda: False)
        return StopRequest(self.checkpoint_dir).graceful_stop()

    def _clip_mine(self, max_norm: float) -> float:
        """The same where sums lie with their owners."""

        assert self._partition is not None
        gradients = [parameter.grad for parameter in self._partition.owned if parameter.grad is not None]
        squares = sum((gradient.float().square().sum().cpu() for gradient in gradients), torch.zeros(()))
        norm = float(self.all_reduce_sum(squares)) ** 0.5
        for gradient in gradients:
            gradient.mul_(min(1.0, max_norm / (norm + 1e-6)))  # as torch's clip_grad_norm_
        return norm

    def _for_group(self, tensor: Any) -> Any:
        """NCCL sends what lies on a GPU, gloo what lies in memory."""

        return tensor.cuda() if dist.get_backend() == "nccl" else tensor.cpu()
