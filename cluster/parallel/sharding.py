"""FSDP2 of torch: each worker keeps a part of every large weight, and gathers a module while it computes.

The modules (`units`) are those that the caller names: the blocks of a model, its word embeddings and its LM head. What
is outside of them, and what several of them share, is complete on every worker: norms, positions, tied embeddings.
A unit belongs to no larger one, so the parts of a model can be called one by one.

Source: Zhao et al., VLDB 2023, https://arxiv.org/abs/2304.11277.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_model(model: Any, units: Sequence[Any]) -> None:
    """Shards the units of a model in place, and moves everything to the device of the process group.

    Args:
        model: The model, on the CPU. Frozen weights get no gradients.
        units: Modules of the model, none within another.
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, device)
    shared = _shared_weights(model, units)
    for unit in units:
        if not set(unit.parameters()) - shared:
            continue
        unit.register_forward_hook(_without_view)  # runs before the hook of FSDP
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=shared & set(unit.parameters()))
        # Gradients are sums, as those of other strategies. Gloo cannot scale them.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        # FSDP allocates its buffers at the first use, which may be in inference mode; their gradients would be refused.
        unit.unshard()
        unit.reshard()
    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(device)


def _without_view(module: Any, arguments: Any, output: Any) -> Any:
    """Copies an output that is a view: FSDP gathers weights for its gradient, unless it is changed in place later."""
    del module, arguments
    is_view = isinstance(output, torch.Tensor) and torch.is_grad_enabled() and output._base is not None
    return output.clone() if is_view else output


def _shared_weights(model: Any, units: Sequence[Any]) -> set[Any]:
    """Returns the parameters that modules of more than one unit, or outside of units, share."""
    homes: dict[int, int] = {id(module): number for number, unit in enumerate(units) for module in unit.modules()}
    places = {
        (parameter, homes.get(id(module), -1))
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    }
    counts = Counter(parameter for parameter, _ in places)
    return {parameter for parameter, count in counts.items() if count > 1}


def local_part(parameter: Any) -> Any:
    """Returns this worker's part of a sharded parameter as a parameter that shares its memory."""
    values: Any = parameter.detach()
    return torch.nn.Parameter(values.to_local(), requires_grad=parameter.requires_grad)


class LocalParts:
    """The sharded parameters that are trained, and this worker's parts of them, which its optimizer updates."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """
        Args:
            parameters: Name -> trained parameter; those that are not sharded are left alone.
        """
        sharded = {name: item for name, item in parameters.items() if isinstance(item, DTensor)}
        self.by_name = {name: local_part(item) for name, item in sharded.items()}
        self._whole = {id(self.by_name[name]): item for name, item in sharded.items()}

    def take_gradients(self) -> list[Any]:
        """Gives the parts the gradients of the backward pass, which FSDP has summed. Returns them."""
        for part in self.by_name.values():
            gradient: Any = self._whole[id(part)].grad
            part.grad = None if gradient is None else gradient.to_local()
        return [part.grad for part in self.by_name.values() if part.grad is not None]

    def clear_gradients(self) -> None:
        """Drops the gradients of the sharded parameters."""
        for whole in self._whole.values():
            whole.grad = None

    def optimizer_state_dict(self, optimizer: Any) -> dict[str, Any]:
        """Returns the optimizer state with complete tensors. All workers must call this; rank 0 keeps them."""
        state: dict[str, Any] = optimizer.state_dict()
        return {**state, "state": self._convert(optimizer, state["state"], self._gather)}

    def load_optimizer_state_dict(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Loads this worker's parts of a complete optimizer state."""
        optimizer.load_state_dict({**state, "state": self._convert(optimizer, state["state"], self._take_part)})

    def _convert(self, optimizer: Any, states: Mapping[int, Any], convert: Any) -> dict[int, dict[str, Any]]:
        """Applies a function to all tensors of sharded parameters that have one number per weight."""
        updated = [item for group in optimizer.param_groups for item in group["params"]]
        converted = {}
        for index, values in states.items():
            whole = self._whole.get(id(updated[index]))
            converted[index] = {
                name: convert(value, whole) if whole is not None and getattr(value, "ndim", 0) > 0 else value
                for name, value in values.items()
            }
        return converted

    @staticmethod
    def _gather(part: Any, whole: Any) -> Any:
        sharded = DTensor.from_local(
            part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
        complete = sharded.full_tensor()
        return part if dist.get_rank() else complete.cpu()

    @staticmethod
    def _take_part(complete: Any, whole: Any) -> Any:
        complete = complete.to(whole.device)
        return distribute_tensor(complete, whole.device_mesh, whole.placements, src_data_rank=None).to_local().clone()
