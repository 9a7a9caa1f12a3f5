"""What is trained of a backbone: low-rank adapters, factors, bottlenecks, biases or its last blocks.

| tune | trained parameters | paper |
|---|---|---|
| lora | updates of low rank of linear layers; with `dora` and `rslora` its variants | Hu et al., ICLR 2022 |
| ia3 | a factor for each key, value and inner activation of the feed-forward layers | Liu et al., NeurIPS 2022 |
| adapter | a bottleneck after each block, h + up(gelu(down(h))) | Houlsby et al., ICML 2019 |
| biases | the vectors that linear layers and norms add (BitFit) | Ben Zaken et al., ACL 2022 |
| top_layers | all weights of the last blocks | Howard and Ruder, ACL 2018 |

PEFT computes the first two and defines their files. The others are a file with the trained tensors. Letters in names
of tensors: B batch, L length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import IA3Config, PeftConfig, get_peft_model
from peft import LoraConfig as PeftLora
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stages.common.errors import InputError
from stages.common.models.backbones.config import LoraConfig, Tune, TuneConfig
from stages.common.models.backbones.partitioned import block_stacks, complete

WEIGHTS_FILE = "weights.safetensors"
PEFT_KINDS: tuple[Tune, ...] = ("lora", "ia3")
"""Adapters of PEFT. Several of one kind can be loaded next to each other on one backbone."""
PART_KINDS: tuple[Tune, ...] = ("top_layers", "biases")
"""Weights of the backbone itself."""
BOTTLENECK = "bottleneck"
"""Name of the module that is added to each block."""


@contextmanager
def peft_adapter(model: Any, config: TuneConfig, seed: int) -> Iterator[Any]:
    """Adds a new adapter of PEFT to a frozen model inside a `with` block. Yields PEFT's wrapper."""
    torch.manual_seed(seed)
    settings: PeftConfig = IA3Config() if config.tune == "ia3" else _lora_settings(config.lora)
    adapter = get_peft_model(model, settings)
    yield adapter
    adapter.unload()


def _lora_settings(lora: LoraConfig) -> PeftLora:
    return PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))), [B, L, D] to [B, L, D] in the precision of h. It starts as the identity."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states_BLD: Tensor) -> Tensor:
        """Changes the hidden states after a block."""
        change_BLD: Tensor = self.up(F.gelu(self.down(states_BLD.to(self.down.weight.dtype))))
        return states_BLD + change_BLD.to(states_BLD.dtype)


def _after_block(block: nn.Module, args: Any, output: Any) -> Any:
    """Applies the bottleneck of a block to its hidden states."""
    bottleneck = block.get_submodule(BOTTLENECK)
    return (bottleneck(output[0]), *output[1:]) if isinstance(output, tuple) else bottleneck(output)


def add_bottlenecks(model: Any, size: int, seed: int) -> list[Any]:
    """Adds a bottleneck to each block of a model. Returns the handles that remove their hooks."""
    torch.manual_seed(seed)
    handles = []
    for stack in block_stacks(model):
        for block in stack:
            block.add_module(BOTTLENECK, Bottleneck(model.config.hidden_size, size).to(model.device))
            handles.append(block.register_forward_hook(_after_block))
    return handles


@contextmanager
def bottlenecks(model: Any, size: int, seed: int) -> Iterator[None]:
    """Adds bottlenecks to a frozen model inside a `with` block."""
    handles = add_bottlenecks(model, size, seed)
    yield
    for handle in handles:
        handle.remove()
    for stack in block_stacks(model):
        for block in stack:
            delattr(block, BOTTLENECK)


def select_parameters(model: nn.Module, config: TuneConfig) -> None:
    """Trains only the biases, or the last blocks, of a model with float32 weights."""
    model.requires_grad_(False)
    if config.tune == "biases":
        for bias in _biases(model):
            bias.requires_grad_(True)
    else:
        for stack in block_stacks(model):
            stack[-config.num_top_layers :].requires_grad_(True)


def _biases(model: nn.Module) -> list[nn.Parameter]:
    return [item for name, item in model.named_parameters() if name.rpartition(".")[2] == "bias"]


def save_trained(model: nn.Module, folder: Path) -> None:
    """Writes the parameters of a model that are trained."""
    trained = {
        name: complete(item.detach()).contiguous() for name, item in model.named_parameters() if item.requires_grad
    }
    save_file(trained, folder / WEIGHTS_FILE)


def load_trained(model: Any, folder: Path) -> None:
    """Reads what `save_trained` wrote into a model, and adds its bottlenecks, if any.

    Raises:
        InputError: the file does not fit the model.
    """
    trained = load_file(folder / WEIGHTS_FILE)
    sizes = {len(item) for name, item in trained.items() if name.endswith(f"{BOTTLENECK}.down.bias")}
    if sizes:
        add_bottlenecks(model, sizes.pop(), seed=0)
    unknown = model.load_state_dict(trained, strict=False).unexpected_keys
    if unknown:
        raise InputError(
            f"{folder / WEIGHTS_FILE} has {unknown[0]}, which the backbone has not.", "Train the sub-model again."
        )
