"""Trains many small models at once: their batches share one pass through a frozen model, and nothing else.

Each model has its own parameters, order of examples, learning rate and gradient clipping, so its result is the same as
if it was trained alone. The speedup comes from the shared pass: a batch of one model is too small for the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.common.protocols import Engine, Recorder
from stages.common.training.checkpoints import Checkpointer
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import batch_indices, check_finite, optimizer_for


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One of the models. Its order of examples follows from `seed`."""

    name: str
    items: Sequence[Any]
    parameters: Mapping[str, torch.nn.Parameter]
    training: TrainingConfig
    seed: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        return self.training.num_steps(len(self.items))


class JobBatch(NamedTuple):
    """The batch of the job `number`."""

    number: int
    items: list[Any]


Batches = list[JobBatch]
"""The batches of all jobs that still run."""


def train_batched(
    jobs: Sequence[TrainingJob],
    compute_losses: Callable[[Batches], list[Tensor]],
    recorder: Recorder,
    engine: Engine,
) -> list[list[float]]:
    """Trains all jobs in place, as stages/common/training/loop.py would train each of them.

    Args:
        jobs: What to train. Micro-batches, early stopping and averaged weights are not supported.
        compute_losses: Returns the loss of every batch, from one pass through the model.
        recorder: Gets the curves `train/loss/<name>` and the progress.
        engine: Runs the backward pass and the update.

    Returns:
        The loss of every step, per job.

    Raises:
        DivergedError: a loss or a gradient is NaN or infinite; names the job.
        StoppedError: a stop was requested; a checkpoint is saved.
    """
    parameters = {f"{job.name}/{key}": value for job in jobs for key, value in job.parameters.items()}
    groups = [
        (number, group)
        for number, job in enumerate(jobs)
        for group in optimizer_for(job.parameters, job.training).param_groups
    ]
    optimizer = torch.optim.AdamW([group for _, group in groups], eps=1e-8, fused=True)
    num_steps = max(job.num_steps for job in jobs)
    running = [[number for number, job in enumerate(jobs) if step < job.num_steps] for step in range(num_steps)]
    checkpointer = Checkpointer(engine, parameters, optimizer)
    progress = checkpointer.restore()
    losses = _losses_per_job(progress.losses, running, len(jobs))
    num_examples = 0
    recorder.log_progress(0, num_steps, phase="batched training", examples=num_examples)
    with engine.graceful_stop() as stop_requested:
        for step in range(max(len(job_losses) for job_losses in losses), num_steps):
            for (number, _), group in zip(groups, optimizer.param_groups, strict=True):
                if number in running[step]:
                    group["lr"] = jobs[number].training.learning_rate_at(step, jobs[number].num_steps)
            values = _compute_gradients(jobs, running[step], step, compute_losses, engine)
            engine.optimizer_step(optimizer)
            for number, value in zip(running[step], values, strict=True):
                losses[number].append(value)
                recorder.log_metric(f"train/loss/{jobs[number].name}", value, step + 1)
            progress.losses += values
            num_examples += sum(
                min(jobs[number].training.batch_size, len(jobs[number].items)) for number in running[step]
            )
            recorder.log_progress(
                step + 1,
                num_steps,
                phase="batched training",
                loss=sum(values) / len(values),
                examples=num_examples,
            )
            checkpointer.after_step(progress, stop_requested, step=step + 1, is_over=step + 1 == num_steps)
    return losses


def _losses_per_job(
    checkpoint_losses: Sequence[float], running: Sequence[Sequence[int]], num_jobs: int
) -> list[list[float]]:
    """Splits the losses of a checkpoint, which has those of all running jobs step by step, by job."""
    losses: list[list[float]] = [[] for _ in range(num_jobs)]
    values = iter(checkpoint_losses)
    for numbers in running:
        for number, value in zip(numbers, values, strict=False):
            losses[number].append(value)
    return losses


def _compute_gradients(
    jobs: Sequence[TrainingJob],
    running: Sequence[int],
    step: int,
    compute_losses: Callable[[Batches], list[Tensor]],
    engine: Engine,
) -> list[float]:
    """Computes the gradients of a step and clips them per job; returns the losses of the running jobs."""
    batches: Batches = []
    for number in running:
        job = jobs[number]
        rows = batch_indices(step, len(job.items), job.training.batch_size, job.seed)
        batches.append(JobBatch(number, [job.items[row] for row in rows]))
    losses = compute_losses(batches)
    values = [float(loss.detach()) for loss in losses]
    engine.backward(torch.stack(losses).sum())
    for value, batch in zip(values, batches, strict=True):
        job = jobs[batch.number]
        where = f"step {step + 1} of {job.name}"
        check_finite(value, "loss", where, batch.items[0], job.training)
        norm = engine.clip_grad_norm(job.parameters, job.training.max_grad_norm)
        check_finite(norm, "norm of the gradients", where, batch.items[0], job.training)
    return values
