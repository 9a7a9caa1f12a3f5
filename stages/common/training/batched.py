"""Trains many small models at once: their batches share one pass through a frozen model, and nothing else.

Each model has its own parameters, order of examples, learning rate and gradient clipping, so its result is the same as
if it was trained alone. The speedup comes from the shared pass: a batch of one model is too small for the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.common.protocols import Engine, Recorder
from stages.common.training import checkpoints
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import batch_indices, check_finite, optimizer_for


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One of many. `parameters` are its own, and so is the order that follows from its `seed`."""

    name: str
    items: Sequence[Any]
    parameters: Mapping[str, torch.nn.Parameter]
    training: TrainingConfig
    seed: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return self.training.num_steps(len(self.items))


Batches = list[tuple[int, list[Any]]]
"""For each training that still runs its number and its batch."""


def train_batched(
    jobs: Sequence[TrainingJob],
    compute_losses: Callable[[Batches], list[Tensor]],
    recorder: Recorder,
    engine: Engine,
) -> list[list[float]]:
    """Trains all of them in place, as stages/common/training/loop.py would train each.

    Args:
        jobs: What to train. Neither micro batches nor early stopping are known here.
        compute_losses: The loss of every batch, from one pass through the model.
        recorder: Gets the curves `train/loss/<name>` and the progress.
        engine: Does the backward pass and the update.

    Returns:
        For each training the loss of every step.

    Raises:
        DivergedError: a loss or a gradient is NaN or infinite; says of which training.
        StoppedError: it was asked to end, and saved a checkpoint.
    """

    parameters = {f"{item.name}/{key}": value for item in jobs for key, value in item.parameters.items()}
    groups = [(number, group) for number, item in enumerate(jobs) for group in _groups(item)]
    optimizer = torch.optim.AdamW([group for _, group in groups], eps=1e-8, fused=True)
    most = max(item.num_steps for item in jobs)
    running = [[number for number, item in enumerate(jobs) if step < item.num_steps] for step in range(most)]
    progress = checkpoints.restore(engine, parameters, optimizer)
    losses = _unpacked(progress.losses, running, len(jobs))
    clock, seen = checkpoints.CheckpointTimer(), 0
    recorder.log_progress(0, most, phase="training together", examples=seen)
    with engine.graceful_stop() as stop_requested:
        for step in range(max(len(found) for found in losses), most):
            for (number, _), group in zip(groups, optimizer.param_groups, strict=True):
                if number in running[step]:
                    group["lr"] = jobs[number].training.learning_rate_at(step, jobs[number].num_steps)
            values = _step([jobs[number] for number in running[step]], running[step], step, compute_losses, engine)
            engine.optimizer_step(optimizer)
            for number, value in zip(running[step], values, strict=True):
                losses[number].append(value)
                recorder.log_metric(f"train/loss/{jobs[number].name}", value, step + 1)
            progress.losses += values
            seen += sum(min(jobs[number].training.batch_size, len(jobs[number].items)) for number in running[step])
            mean, is_over = sum(values) / len(values), step + 1 == most
            recorder.log_progress(step + 1, most, phase="training together", loss=mean, examples=seen)
            checkpoints.maybe_save(
                engine, clock, stop_requested, parameters, optimizer, progress, step=step + 1, is_over=is_over
            )
    return losses


def _groups(training: TrainingJob) -> list[dict[str, Any]]:
    """What an optimizer of its own would hold."""
    return optimizer_for(training.parameters, training.training).param_groups


def _unpacked(kept: Sequence[float], running: Sequence[Sequence[int]], count: int) -> list[list[float]]:
    """The losses of each training, out of a checkpoint's: those of all one after the other, step by step."""
    losses: list[list[float]] = [[] for _ in range(count)]
    values = iter(kept)
    for numbers in running:
        for number, value in zip(numbers, values, strict=False):
            losses[number].append(value)
    return losses


def _step(
    trainings: Sequence[TrainingJob],
    numbers: Sequence[int],
    step: int,
    compute_losses: Callable[[Batches], list[Tensor]],
    engine: Engine,
) -> list[float]:
    """The gradients of one step, clipped for each training by itself; returns the losses."""

    batches: Batches = []
    for number, item in zip(numbers, trainings, strict=True):
        rows = batch_indices(step, len(item.items), item.training.batch_size, item.seed)
        batches.append((number, [item.items[row] for row in rows]))
    found = compute_losses(batches)
    values = [float(loss.detach()) for loss in found]
    engine.backward(torch.stack(found).sum())
    for item, value, (_, batch) in zip(trainings, values, batches, strict=True):
        where = f"step {step + 1} of {item.name}"
        check_finite(value, "loss", where, batch[0], item.training)
        norm = engine.clip_grad_norm(list(item.parameters.values()), item.training.max_grad_norm)
        check_finite(norm, "norm of the gradients", where, batch[0], item.training)
    return values
