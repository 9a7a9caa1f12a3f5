"""The one training loop. Every stage that trains calls it; what differs is the loss and which parameters move."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from stages.errors import DivergedError
from stages.protocols import Engine, Recorder
from stages.seeds import derive_seed, torch_rng

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")

CHECKPOINT_EVERY_S = 60.0
"""Seconds between checkpoints; the environment variable CLOZELINE_CHECKPOINT_EVERY_S says otherwise."""
RECORD_EVERY_S = 0.2


class LoopConfig(BaseModel, frozen=True, extra="forbid"):
    """How long and how fast to train. Defaults of the optimizer are PET's: AdamW, eps 1e-8, clipping at 1."""

    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(8, ge=1, description="Examples in one optimizer step.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps; either this or epochs.")
    epochs: float | None = Field(None, gt=0, description="Passes over the training set; either this or steps.")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="Learning rate after the warm-up.")
    warmup: float = Field(0.0, ge=0, le=1, description="Share of the steps in which the learning rate rises from 0.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of matrices; vectors have none.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")

    @model_validator(mode="after")
    def _one_length(self) -> LoopConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, not both and not neither. Keep one: steps: 100.")
        return self

    def num_steps(self, num_items: int) -> int:
        """Optimizer steps for a training set of `num_items`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * math.ceil(num_items / self.batch_size)))

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of step `step` (from 0) of `num_steps`."""
        warmup = round(self.warmup * num_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, num_steps - warmup)
        if self.schedule == "linear":
            return self.learning_rate * (1 - share)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        return self.learning_rate


def train(
    items: Sequence[Item],
    loss_of: Callable[[list[Item]], Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
    config: LoopConfig,
    *,
    seed: int,
    recorder: Recorder,
    engine: Engine,
) -> list[float]:
    """Trains `parameters` in place.

    The order of the items and the draws of dropout follow from `seed` and the step's number, so that a run that goes on
    from a checkpoint in `engine.work` ends with the numbers of an unbroken one.

    Args:
        items: The training set.
        loss_of: Scalar loss of a batch.
        parameters: Name -> trainable parameter; names serve the checkpoint.
        config: Length, rates, batch size.
        seed: Seed of order and dropout.
        recorder: Gets the curves `train/loss` and `train/learning_rate`.
        engine: Does the backward pass and the update.

    Returns:
        The loss of every step.

    Raises:
        DivergedError: a loss is NaN or infinite; says at which step and for which items.
    """
    import torch

    num_steps = config.num_steps(len(items))
    optimizer = _optimizer(parameters, config)
    losses = _restore(engine.work, parameters, optimizer)
    pause_s = float(os.environ.get("CLOZELINE_CHECKPOINT_EVERY_S") or CHECKPOINT_EVERY_S)
    saved = shown = time.monotonic()
    for step in range(len(losses), num_steps):
        torch.manual_seed(derive_seed(seed, "step", step))
        batch = [items[index] for index in _indices(step, len(items), config.batch_size, seed)]
        loss = loss_of(batch)
        value = float(loss.detach())
        _check_finite(value, f"step {step + 1} of {num_steps}", batch[0], config)
        engine.backward(loss)
        rate = config.rate(step, num_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.max_grad_norm)
        engine.step(optimizer)
        losses.append(value)
        recorder.metric("train/loss", value, step + 1)
        recorder.metric("train/learning_rate", rate, step + 1)
        now = time.monotonic()
        if now - shown > RECORD_EVERY_S or step + 1 == num_steps:
            shown = now
            recorder.progress(step + 1, num_steps, phase="training", loss=value)
        if engine.work is not None and now - saved > pause_s:
            saved = now
            _save(engine.work, parameters, optimizer, losses)
    return losses


def _check_finite(value: float, step: str, first: object, config: LoopConfig) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"the loss became {value} at {step}, with the batch that starts with {str(first)[:200]}.",
            f"Lower learning_rate (now {config.learning_rate}), or look at that example.",
        )


def _optimizer(parameters: Mapping[str, torch.nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    import torch

    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=config.learning_rate, eps=1e-8, fused=True)  # six times faster on processors


def _indices(step: int, num_items: int, batch_size: int, seed: int) -> list[int]:
    """Items of one step: every epoch is a permutation of its own; its last batch may be short."""
    import torch

    per_epoch = math.ceil(num_items / batch_size)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(num_items, generator=torch_rng(seed, "epoch", epoch)).tolist()
    return order[place * batch_size : (place + 1) * batch_size]


def _save(
    work: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: list[float],
) -> None:
    import torch

    state: dict[str, Any] = {
        "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "losses": losses,
    }
    temporary = work / "checkpoint.pt.part"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(work / "checkpoint.pt")


def _restore(
    work: Path | None, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> list[float]:
    import torch

    if work is None or not (work / "checkpoint.pt").exists():
        return []
    try:
        state = torch.load(work / "checkpoint.pt", weights_only=True)
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError):
        # Not what was written, as after a disk's fault: better from the beginning than not at all.
        return []
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"])
