"""The engine of a step with several workers: sums gradients; models are replicated or partitioned.

What is trained and complete on every worker is summed by DistributedDataParallel of torch; sharded weights by FSDP2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cluster.parallel.config import Disk, ZeroSettings
from cluster.parallel.nvme_offload import OffloadFolder
from cluster.parallel.partition import OwnedParameters
from cluster.parallel.sharding import LocalParts, shard_model
from cluster.parallel.worker_signals import HangDumper, StopRequest
from cluster.parallel.zero3 import PartitionedModel
from cluster.steps.step import Strategy


class Replicas(DistributedDataParallel):
    """Sums the gradients of parameters of which every worker has all values, while the backward pass runs.

    The module that it wraps computes any loss, because the parts of a model are called one by one.
    """

    def __init__(self, parameters: Sequence[Any]) -> None:
        super().__init__(
            _Loss(parameters),
            init_sync=False,  # all workers have loaded the same values
            find_unused_parameters=True,  # of several prompts a batch may use one
            gradient_as_bucket_view=True,
        )
        self.register_comm_hook(None, lambda _, bucket: _sum_bucket(bucket))

    def __call__(self, compute: Callable[[], Any], *, is_last: bool) -> Any:
        """Returns the loss that `compute` returns. Gradients are summed when the last pass before an update ends."""
        with nullcontext() if is_last else self.no_sync():
            return super().__call__(compute)


class _Loss(torch.nn.Module):
    """Has the parameters of a loss, and computes it."""

    def __init__(self, parameters: Sequence[Any]) -> None:
        super().__init__()
        self.parameters_of_loss = torch.nn.ParameterList(parameters)

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def _sum_bucket(bucket: Any) -> Any:
    """Sums gradients, of which DistributedDataParallel would take the mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class DistributedEngine:
    """The engine of one worker; see `stages.common.protocols.Engine`. Needs a process group of torch.

    Args:
        checkpoint_dir: The checkpoint folder of the step, which all workers of this machine share.
        strategy: How the workers share model and optimizer.
        hang_dumper: Its timer is reset whenever the worker makes progress.
        map_batches: Implements `Engine.map_batches` in this process.
        nvme_path: Folder on a disk of each machine for the weights of zero3_offload.
        offload_owner: What the names of folders there have in common; see `OffloadFolder`.
    """

    def __init__(
        self,
        checkpoint_dir: Path,
        strategy: Strategy,
        hang_dumper: HangDumper,
        *,
        map_batches: Callable[..., Iterator[Any]],
        nvme_path: str | None = None,
        offload_owner: str = "",
    ) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.checkpoint_dir: Path | None = checkpoint_dir
        self._strategy = strategy
        self._hang_dumper = hang_dumper
        self._map_batches = map_batches
        self._nvme_path = nvme_path
        self._offload_owner = offload_owner
        self._models: list[PartitionedModel] = []
        self._folders: list[OffloadFolder] = []
        self._partition: OwnedParameters | None = None
        self._replicas: Replicas | None = None
        self._parts = LocalParts({})

    def load_frozen(
        self,
        load_model: Callable[[], Any],
        *,
        bf16: bool,
        largest_weight: Callable[[], int],
        find_units: Callable[[Any], Sequence[Any]],
    ) -> Any:
        """Loads a frozen model, on every worker or (fsdp, zero3) partitioned among them."""
        if self._strategy == "fsdp":
            model = load_model().requires_grad_(False)
            shard_model(model, find_units(model))
            return model
        if self._strategy not in ("zero3", "zero3_offload"):
            return load_model()
        disk = None
        if self._nvme_path is not None:
            self._folders.append(OffloadFolder(Path(self._nvme_path), self._offload_owner))
            disk = Disk(folder=self._folders[-1].path, buffer_size=math.ceil(largest_weight() / self.world_size))
        settings = ZeroSettings(bf16=bf16, offload=self._strategy == "zero3_offload", disk=disk)
        self._models.append(PartitionedModel(load_model, settings))
        return self._models[-1].model

    def load_trained(self, load_model: Callable[[], Any], *, find_units: Callable[[Any], Sequence[Any]]) -> Any:
        """Loads a model whose weights are trained, on every worker or (fsdp) sharded among them."""
        model = load_model()
        if self._strategy == "fsdp":
            shard_model(model, find_units(model))
        return model

    def close(self) -> None:
        """Removes offloaded weights from the disk. The models cannot be used afterward."""
        for model in self._models:
            model.close()
        for folder in self._folders:
            folder.close()

    def register_parameters(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Names the trained parameters. Returns what this worker's optimizer updates: they, or parts of them (fsdp)."""
        if self._partition is not None:
            self._partition.close()
        self._replicas = None
        self._parts = LocalParts(parameters)
        complete = [item for name, item in parameters.items() if name not in self._parts.by_name]
        is_zero2 = self._strategy == "zero2"
        self._partition = (
            OwnedParameters(complete, _to_group_device, sums_gradients=is_zero2)
            if self._strategy in ("zero1", "zero2")
            else None
        )
        self._replicas = Replicas(complete) if complete and not is_zero2 else None
        return {**parameters, **self._parts.by_name}

    def forward(self, compute: Callable[[], Any], *, is_last: bool) -> Any:
        """Computes this worker's part of the loss; `is_last`: no other pass follows before the update."""
        return compute() if self._replicas is None else self._replicas(compute, is_last=is_last)

    def backward(self, loss: Any) -> None:
        """Computes the gradients of this worker's part of the loss."""
        self._hang_dumper.reset_timer()
        loss.backward()
        if self._partition is not None:
            self._partition.end_pass()
        for model in self._models:
            model.end_pass()

    def clip_grad_norm(self, parameters: Mapping[str, Any], max_norm: float) -> float:
        """Clips the gradients, which are summed already. Returns their norm before clipping."""
        if self._partition is not None:
            complete, partitioned = [], self._partition.keep_owned()
        else:
            complete = [
                item.grad
                for name, item in parameters.items()
                if name not in self._parts.by_name and item.grad is not None
            ]
            partitioned = self._parts.take_gradients()
        norm = get_total_norm(complete).double().cpu()
        if self._partition is not None or self._parts.by_name:
            norm = (norm.square() + self.all_reduce_sum(get_total_norm(partitioned).double().cpu().square())).sqrt()
        updated = [self._parts.by_name.get(name, item) for name, item in parameters.items()]
        clip_grads_with_norm_(updated, max_norm, norm)
        return float(norm)

    def optimizer_step(self, optimizer: Any) -> None:
        """Updates the parameters, to the same values on every worker, and clears their gradients."""
        optimizer.step()  # skips parameters without a gradient and keeps no state for them
        if self._partition is not None:
            self._partition.spread()
        optimizer.zero_grad(set_to_none=True)
        self._parts.clear_gradients()

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the optimizer state for a checkpoint; it is complete on rank 0."""
        owner = self._parts if self._partition is None else self._partition
        return owner.optimizer_state_dict(optimizer)

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Restores a complete optimizer state."""
        owner = self._parts if self._partition is None else self._partition
        owner.load_optimizer_state_dict(optimizer, state)

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


def _to_group_device(tensor: Any) -> Any:
    """Moves a tensor to the GPU for NCCL, or to the CPU for gloo."""
    return tensor.cuda() if dist.get_backend() == "nccl" else tensor.cpu()
