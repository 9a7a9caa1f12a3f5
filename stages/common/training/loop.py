"""The training loop of all stages. They differ in the loss and in the parameters that are trained.

Order and dropout follow from the seed and the number of the step, so a run that resumes from a checkpoint ends with
the numbers of an uninterrupted run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from stages.common.errors import DivergedError, InputError
from stages.common.progress import ProgressReporter
from stages.common.protocols import Engine, Recorder
from stages.common.seeds import derive_seed, torch_rng
from stages.common.training import checkpoints
from stages.common.training.checkpoints import BestCheckpoint, Progress
from stages.common.training.config import EarlyStopping, TrainingConfig

Item = TypeVar("Item")


def train(
    items: Sequence[Item],
    compute_loss: Callable[[list[Item]], Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
    config: TrainingConfig,
    *,
    seed: int,
    recorder: Recorder,
    engine: Engine,
    validate: Callable[[], tuple[float, float]] | None = None,
    frozen_steps: Mapping[str, int] | None = None,
) -> list[float]:
    """Trains in place. Order and dropout follow from `seed` and the step's number: a run that goes on from a checkpoint
    in `engine.work` ends with the numbers of an unbroken one. Of several workers each takes a part of every batch.

    Args:
        items: The training set.
        compute_loss: Scalar loss of a batch, the mean over it.
        parameters: Name -> trainable parameter; names serve the checkpoint.
        config: Length, rates, batch size.
        seed: Seed of order and dropout.
        recorder: Gets the curves `train/loss`, `train/learning_rate` and, of a dev set, `dev/accuracy` and `dev/loss`.
        engine: Does the backward pass and the update.
        validate: Accuracy and loss on the dev set, for early stopping.
        frozen_steps: Name -> steps in which this parameter stays as it is, while the others train.

    Returns:
        The loss of every step.

    Raises:
        DivergedError: a loss or a gradient is NaN or infinite; says at which step and for which items.
        InputError: early stopping is asked for, and there is no dev set.
        StoppedError: it was asked to end, and saved a checkpoint.
    """

    _check_dev_set(config, validate)
    num_steps = config.num_steps(len(items))
    optimizer = optimizer_for(parameters, config)
    engine.register_parameters(list(parameters.values()))
    progress = checkpoints.restore(engine, parameters, optimizer)
    clock, reporter = checkpoints.CheckpointTimer(), ProgressReporter(recorder, len(progress.losses), num_steps)
    with engine.graceful_stop() as stop_requested:
        while len(progress.losses) < num_steps and not progress.stopped:
            step = len(progress.losses)
            batch = [items[index] for index in batch_indices(step, len(items), config.batch_size, seed)]
            rate = config.learning_rate_at(step, num_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            _hold(frozen_steps or {}, parameters, step)
            torch.manual_seed(derive_seed(seed, "step", step, *([engine.rank] if engine.rank else [])))
            loss = _step(
                batch, compute_loss, parameters, optimizer, config, engine, where=f"step {step + 1} of {num_steps}"
            )
            progress.losses.append(loss)
            recorder.log_metric("train/loss", loss, step + 1)
            recorder.log_metric("train/learning_rate", rate, step + 1)
            _look(progress, config.early_stopping, validate, parameters, recorder, is_last=step + 1 == num_steps)
            is_over = progress.stopped or step + 1 == num_steps
            reporter.update(step + 1, loss, len(batch), at_once=is_over)
            checkpoints.maybe_save(
                engine, clock, stop_requested, parameters, optimizer, progress, step=step + 1, is_over=is_over
            )
    _take_best(progress.best, parameters, recorder)
    return progress.losses


def _check_dev_set(config: TrainingConfig, validate: Callable[[], tuple[float, float]] | None) -> None:
    if config.early_stopping and validate is None:
        raise InputError(
            "early_stopping needs a development set, and there is none.",
            "Give one: data.dev, or data.dev_shots; or take early_stopping out.",
            key="training.early_stopping",
        )


def _hold(frozen_steps: Mapping[str, int], parameters: Mapping[str, torch.nn.Parameter], step: int) -> None:
    for name, num_held in frozen_steps.items():
        parameters[name].requires_grad_(step >= num_held)


def _step(
    batch: list[Item],
    compute_loss: Callable[[list[Item]], Tensor],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    engine: Engine,
    *,
    where: str,
) -> float:
    """One optimizer step; returns the loss of the batch. `where` is for errors."""

    mine = batch[engine.rank :: engine.world_size]
    most = math.ceil(len(batch) / engine.world_size)
    size = config.micro_batch_size or most
    value = torch.zeros((), dtype=torch.float64)
    for start in range(0, most, size):
        part = mine[start : start + size]
        # every worker makes as many passes, or those who split a model would wait for each other forever
        loss = compute_loss(part or batch[:1]) * (len(part) / len(batch))
        value += float(loss.detach())
        engine.backward(loss)
    whole = float(engine.all_reduce_sum(value))
    check_finite(whole, "loss", where, batch[0], config)
    moving = [parameter for parameter in parameters.values() if parameter.requires_grad]
    norm = engine.clip_grad_norm(moving, config.max_grad_norm)
    check_finite(norm, "norm of the gradients", where, batch[0], config)
    engine.optimizer_step(optimizer)
    return whole


def _look(
    progress: Progress,
    stopping: EarlyStopping | None,
    validate: Callable[[], tuple[float, float]] | None,
    parameters: Mapping[str, torch.nn.Parameter],
    recorder: Recorder,
    *,
    is_last: bool,
) -> None:
    """Looks at the dev set, every so many steps, and keeps the best parameters."""
    step = len(progress.losses)
    if stopping is None or validate is None or (step % stopping.eval_steps and not is_last):
        return
    accuracy, loss = validate()
    recorder.log_metric("dev/accuracy", accuracy, step)
    recorder.log_metric("dev/loss", loss, step)
    merit = (accuracy, -loss)  # few dev examples saturate: the loss decides between equals
    if merit > progress.best.dev_score:
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        progress.best = BestCheckpoint(step, merit, kept)
        return
    progress.best.num_bad_evals += 1
    progress.stopped = progress.best.num_bad_evals >= stopping.patience


def _take_best(best: BestCheckpoint, parameters: Mapping[str, torch.nn.Parameter], recorder: Recorder) -> None:
    if best.parameters:
        checkpoints.load_parameters(parameters, best.parameters)
        recorder.log_metric("dev/best_step", best.step)


def check_finite(value: float, what: str, where: str, first: object, config: TrainingConfig) -> None:
    """Stops a training that diverges, before anything of it is kept.

    Raises:
        DivergedError: `value` is NaN or infinite.
    """
    if not math.isfinite(value):
        raise DivergedError(
            f"the {what} became {value} at {where}, with the batch that starts with {str(first)[:200]}.",
            f"Lower learning_rate (now {config.learning_rate}), or look at that example.",
        )


def optimizer_for(parameters: Mapping[str, torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, without weight decay for vectors."""

    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=config.learning_rate, eps=1e-8, fused=True)  # six times faster on processors


def batch_indices(step: int, num_items: int, batch_size: int, seed: int) -> list[int]:
    """Items of one step: every epoch is a permutation of its own; its last batch may be short."""

    per_epoch = math.ceil(num_items / batch_size)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(num_items, generator=torch_rng(seed, "epoch", epoch)).tolist()
    return order[place * batch_size : (place + 1) * batch_size]
