"""The training loop of all stages. They differ in the loss and in the parameters that are trained.

Order and dropout follow from the seed and the number of the step, so a run that resumes from a checkpoint ends with
the numbers of an uninterrupted run. Gradients do not depend on how a batch is split into micro-batches and among
workers (stages/common/losses.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from stages.common.errors import DivergedError, InputError
from stages.common.losses import ComputeLoss
from stages.common.metrics.classification import DevScore
from stages.common.progress import ProgressReporter
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import derive_seed, torch_rng
from stages.common.training.checkpoints import BestCheckpoint, Checkpointer, Progress, load_parameters
from stages.common.training.config import ParameterGroup, TrainingConfig

Item = TypeVar("Item")
BATCHES_PER_GROUP = 16
"""Batches whose items are sorted by length together: enough for similar lengths, few enough for random batches."""
Validation = Callable[[], DevScore]
"""Evaluates the dev set."""


def train(
    items: Sequence[Item],
    compute_loss: ComputeLoss[Any],
    parameters: Mapping[str, torch.nn.Parameter],
    config: TrainingConfig,
    *,
    seed: int,
    recorder: Recorder,
    engine: Engine,
    validate: Validation | None = None,
    frozen_steps: Mapping[str, int] | None = None,
    sample: Callable[[int], Sequence[int]] | None = None,
    prepare: Callable[[list[Item], int], list[Any]] | None = None,
    groups: Mapping[str, ParameterGroup] | None = None,
    name: str = "checkpoint",
) -> list[float]:
    """Trains in place. With several workers, each processes a part of every batch.

    Args:
        items: The training set.
        compute_loss: Returns what a part of a batch contributes to the loss of the batch.
        parameters: Name -> trainable parameter; the checkpoint uses the names.
        config: Length, learning rate, batch size.
        seed: Seed of order and dropout.
        recorder: Gets the curves `train/loss`, `train/learning_rate`, and with a dev set `dev/accuracy`, `dev/loss`.
        engine: Runs the backward pass and the update, and has the folder for checkpoints.
        validate: Evaluates the dev set, for early stopping.
        frozen_steps: Name of a parameter -> first steps in which it does not change, while the others train.
        sample: Returns the indices of the items of a step. Default: shuffled epochs.
        prepare: Draws what is random in a batch before it is split, from torch's global generator. Its arguments are
            the batch and the number of the step, from 0.
        groups: Name of a parameter -> the part that it belongs to, for learning rates of parts. Default: the backbone.
        name: Name of the checkpoint, which differs if a stage trains several times.

    Returns:
        The loss of every step.

    Raises:
        DivergedError: a loss or a gradient is NaN or infinite; names the step and the items.
        InputError: early stopping is configured without a dev set.
        StoppedError: a stop was requested; a checkpoint is saved.
    """
    if config.early_stopping and validate is None:
        raise InputError(
            "early stopping requires a dev set, but neither data.dev nor data.dev_shots is set.",
            "Set one of them, or remove early_stopping.",
            key="training.early_stopping",
        )
    num_steps = config.num_steps(len(items))
    optimizer = optimizer_for(engine.register_parameters(parameters), config, groups)
    loop = _Loop(compute_loss, parameters, optimizer, config, engine)
    checkpointer = Checkpointer(engine, parameters, optimizer, name)
    sample = sample or partial(batch_indices, num_items=len(items), batch_size=config.batch_size, seed=seed)
    progress = checkpointer.restore()
    reporter = ProgressReporter(recorder, len(progress.losses), num_steps)
    with engine.graceful_stop() as stop_requested:
        while len(progress.losses) < num_steps and not progress.stopped:
            step = len(progress.losses)
            torch.manual_seed(derive_seed(seed, "step", step))
            batch: list[Any] = [items[index] for index in sample(step)]
            if prepare is not None:
                batch = prepare(batch, step)
            if engine.rank:  # dropout differs among workers
                torch.manual_seed(derive_seed(seed, "step", step, engine.rank))
            rate = config.learning_rate_at(step, num_steps)
            loop.set_up(step, rate, frozen_steps or {})
            loss = loop.step(batch, f"step {step + 1} of {num_steps}")
            progress.losses.append(loss)
            recorder.log_metric("train/loss", loss, step + 1)
            recorder.log_metric("train/learning_rate", rate, step + 1)
            if step >= round(num_steps * (1 - config.average_last)):
                progress.average.update(parameters)
            if validate is not None:
                loop.validate(progress, validate, recorder, is_last=step + 1 == num_steps)
            is_over = progress.stopped or step + 1 == num_steps
            reporter.update(step + 1, loss, len(batch), is_over=is_over)
            checkpointer.after_step(progress, stop_requested, step=step + 1, is_over=is_over)
    if progress.average.parameters:
        load_parameters(parameters, progress.average.parameters)
    if progress.best.parameters:
        load_parameters(parameters, progress.best.parameters)
        recorder.log_metric("dev/best_step", progress.best.step)
    return progress.losses


@dataclass(frozen=True, slots=True)
class _Loop:
    """What every step of a training run uses."""

    compute_loss: ComputeLoss[Any]
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    config: TrainingConfig
    engine: Engine

    def set_up(self, step: int, learning_rate: float, frozen_steps: Mapping[str, int]) -> None:
        """Sets the learning rate of a step, and which parameters it trains."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        for name, num_frozen in frozen_steps.items():
            self.parameters[name].requires_grad_(step >= num_frozen)

    def step(self, batch: list[Any], where: str) -> float:
        """Runs one optimizer step; returns the loss of the batch. `where` is for errors."""
        config, engine = self.config, self.engine
        local_batch = batch[engine.rank :: engine.world_size]
        num_local = math.ceil(len(batch) / engine.world_size)
        micro_batch_size = config.micro_batch_size or num_local
        loss_sum = torch.zeros((), dtype=torch.float64)
        for start in range(0, num_local, micro_batch_size):
            part = local_batch[start : start + micro_batch_size]
            # All ranks must run the same number of forward passes; otherwise FSDP and ZeRO-3 deadlock.
            compute = partial(self._share_of_loss, part or batch[:1], batch, counts=bool(part))
            loss = engine.forward(compute, is_last=start + micro_batch_size >= num_local)
            loss_sum += float(loss.detach())
            engine.backward(loss)
        batch_loss = float(engine.all_reduce_sum(loss_sum))
        check_finite(batch_loss, "loss", where, batch[0], config)
        trainable = {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}
        norm = engine.clip_grad_norm(trainable, config.max_grad_norm)
        check_finite(norm, "norm of the gradients", where, batch[0], config)
        engine.optimizer_step(self.optimizer)
        return batch_loss

    def _share_of_loss(self, part: list[Any], batch: list[Any], *, counts: bool) -> torch.Tensor:
        """Returns what a part contributes to the loss of the batch; nothing if the part does not count."""
        return self.compute_loss(part, batch) * counts

    def validate(self, progress: Progress, validate: Validation, recorder: Recorder, *, is_last: bool) -> None:
        """Evaluates the dev set every `eval_steps` steps, and keeps the best parameters."""
        stopping, step = self.config.early_stopping, len(progress.losses)
        if stopping is None or (step % stopping.eval_steps and not is_last):
            return
        accuracy, loss = validate()
        recorder.log_metric("dev/accuracy", accuracy, step)
        recorder.log_metric("dev/loss", loss, step)
        rank = (accuracy, -loss)
        if rank > progress.best.rank:
            copies = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
            progress.best = BestCheckpoint(step, rank, copies)
            return
        progress.best.num_bad_evals += 1
        progress.stopped = progress.best.num_bad_evals >= stopping.patience


def check_finite(value: float, what: str, where: str, first_item: object, config: TrainingConfig) -> None:
    """Stops a training run that diverges, before its result is saved.

    Raises:
        DivergedError: `value` is NaN or infinite.
    """
    if not math.isfinite(value):
        raise DivergedError(
            f"the {what} became {value} at {where}, with the batch that starts with {str(first_item)[:200]}.",
            f"Lower learning_rate (now {config.learning_rate}), or check this example.",
        )


def optimizer_for(
    parameters: Mapping[str, torch.nn.Parameter],
    config: TrainingConfig,
    groups: Mapping[str, ParameterGroup] | None = None,
) -> torch.optim.Optimizer:
    """Returns AdamW with weight decay for matrices and without it for vectors. `scale` of a group multiplies the
    learning rate of a step.

    What is trained is float32, whatever a frozen backbone is: updates of bfloat16 weights would often be rounded away.
    """
    assert not [name for name, item in parameters.items() if item.dtype in (torch.bfloat16, torch.float16)]
    by_kind: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        scale = config.scale_of((groups or {}).get(name, "backbone"))
        by_kind.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": items,
            "weight_decay": config.weight_decay if is_matrix else 0.0,
            "scale": scale,
            "lr": scale * config.learning_rate,
        }
        for (scale, is_matrix), items in sorted(by_kind.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]
    return torch.optim.AdamW(settings, lr=config.learning_rate, eps=1e-8, fused=True)  # fused: six times faster on CPUs


class LengthGroupedSampler:
    """Samples batches of items of similar length, so that little is padded. Every epoch is another permutation.

    Args:
        lengths: [n] length of each item; only their order matters.
        batch_size: Items per batch; the last batch of an epoch may be smaller.
        seed: Seed of the permutations.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._batches: list[list[int]] = []

    def __call__(self, step: int) -> list[int]:
        """Returns the items of a step."""
        epoch, step_in_epoch = divmod(step, math.ceil(len(self.lengths) / self.batch_size))
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._batches_of(epoch)
        return self._batches[step_in_epoch]

    def _batches_of(self, epoch: int) -> list[list[int]]:
        """Sorts groups of a random order by length, cuts them into batches, and shuffles the batches."""
        rng = torch_rng(self.seed, "epoch", epoch)
        order = torch.randperm(len(self.lengths), generator=rng).tolist()
        size = self.batch_size * BATCHES_PER_GROUP
        groups = (order[start : start + size] for start in range(0, len(order), size))
        ordered = [item for group in groups for item in sorted(group, key=self.lengths.__getitem__)]
        batches = [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]
        return [batches[index] for index in torch.randperm(len(batches), generator=rng).tolist()]


def batch_indices(step: int, num_items: int, batch_size: int, seed: int) -> list[int]:
    """Returns the items of a step. Every epoch is another permutation; its last batch may be smaller."""
    steps_per_epoch = math.ceil(num_items / batch_size)
    epoch, step_in_epoch = divmod(step, steps_per_epoch)
    order = torch.randperm(num_items, generator=torch_rng(seed, "epoch", epoch)).tolist()
    return order[step_in_epoch * batch_size : (step_in_epoch + 1) * batch_size]
