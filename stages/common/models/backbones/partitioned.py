"""Weights that the engine has partitioned over workers (ZeRO-3, FSDP2).

Their values are complete only while a module computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, distribute_tensor


def is_sharded(weight: Any) -> bool:
    """Returns True if each worker has a part of a tensor (FSDP2)."""
    return isinstance(weight, DTensor)


def is_partitioned(weight: Any) -> bool:
    """Returns True if the values of a parameter are spread over several workers (FSDP2, or ZeRO-3 of DeepSpeed)."""
    return hasattr(weight, "ds_status") or is_sharded(weight)


@contextmanager
def gathered(weight: Any) -> Iterator[Any]:
    """Yields the parameter with all its values. All workers must call this. Copy what you need after the block.

    What is computed from a trained parameter has gradients for it.
    """
    if is_sharded(weight):
        yield weight.full_tensor(grad_placements=[Partial()])  # gradients of all workers are added up
        return
    if not is_partitioned(weight) or weight.ds_status.name == "AVAILABLE":
        yield weight
        return
    weight.all_gather()
    yield weight
    weight.partition()


def complete(tensor: Tensor) -> Tensor:
    """Returns all values of a tensor that may be sharded. All workers must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Returns a tensor on the device of a parameter, and this worker's part of it if the parameter is sharded."""
    if isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def complete_state_dict(model: nn.Module) -> dict[str, Tensor] | None:
    """Returns the weights of a model with sharded ones for `save_pretrained`; None if the model has all its weights.

    All workers must call this.
    """
    if not any(map(is_sharded, model.parameters())):
        return None
    return {
        name: complete(value.detach()).cpu() if is_sharded(value) else value
        for name, value in model.state_dict().items()
    }


def sharding_units(model: nn.Module) -> list[nn.Module]:
    """Returns the modules whose weights a worker may gather while they compute: blocks, embeddings, and the LM head."""
    units = [block for stack in block_stacks(model) for block in stack]
    for find in ("get_input_embeddings", "get_output_embeddings"):
        module = getattr(model, find, lambda: None)()
        if module is not None and module not in units:
            units.append(module)
    return units


def num_unsharded(model: nn.Module) -> int:
    """Returns the number of weights that stay complete on every worker under FSDP2: outside of units, or shared."""
    homes = {id(module): number for number, unit in enumerate(sharding_units(model)) for module in unit.modules()}
    places: dict[int, set[int]] = {}
    sizes: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            places.setdefault(id(weight), set()).add(homes.get(id(module), -1))
            sizes[id(weight)] = weight.numel()
    return sum(size for key, size in sizes.items() if len(places[key]) > 1 or -1 in places[key])


def largest_unit(model: nn.Module) -> int:
    """Returns the number of weights of the largest module that a worker gathers at once under FSDP2."""
    return max((sum(item.numel() for item in unit.parameters()) for unit in sharding_units(model)), default=0)


def block_stacks(model: nn.Module) -> list[nn.ModuleList]:
    """Returns the lists of blocks of a model: one, or those of encoder and decoder."""
    inner = {id(item) for stack in _module_lists(model) for part in stack for item in _module_lists(part)}
    stacks = [stack for stack in _module_lists(model) if id(stack) not in inner]
    return [stack for stack in stacks if len({type(block) for block in stack}) == 1]


def _module_lists(model: nn.Module) -> list[nn.ModuleList]:
    return [item for item in model.modules() if isinstance(item, nn.ModuleList) and len(item)]
