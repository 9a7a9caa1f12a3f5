"""Gradients of one optimizer step: in this process, or summed over workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.common.engine import InProcessEngine
from stages.common.errors import StoppedError
from stages.common.models.backbones.partitioned import complete
from stages.common.protocols import Engine, NullRecorder
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import train
from tests.support.gradient_problems import Problem


class Gradient(NamedTuple):
    """Gradients of all parameters in one vector, their norm as the engine computed it, and the loss."""

    values: Tensor
    norm: float
    loss: float


class GradientsSeen:
    """An engine that keeps the gradients of a step, and updates nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.values = torch.zeros(0)
        self.norm = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def clip_grad_norm(self, parameters: Mapping[str, Any], max_norm: float) -> float:
        self.norm = self._engine.clip_grad_norm(parameters, max_norm=1e9)
        zeros = (torch.zeros_like(item) if item.grad is None else item.grad for item in parameters.values())
        self.values = torch.cat([complete(item).flatten() for item in zeros])
        return self.norm

    def optimizer_step(self, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)


def gradient(problem: Problem, micro_batch_size: int | None, engine: Engine | None = None) -> Gradient:
    """Returns the gradient of the first step. An engine with owners of parameters returns what this worker owns."""
    seen = GradientsSeen(engine or InProcessEngine())
    training = TrainingConfig(
        learning_rate=0.1, batch_size=len(problem.items), steps=1, micro_batch_size=micro_batch_size
    )
    [loss] = train(
        problem.items, problem.compute_loss, problem.parameters, training, seed=3, recorder=NullRecorder(),
        engine=seen, prepare=problem.prepare, sample=problem.sample,
    )  # fmt: skip
    for parameter in problem.parameters.values():
        parameter.grad = None
    return Gradient(seen.values, seen.norm, loss)


class StoppingEngine:
    """An engine that is asked to stop after some optimizer steps."""

    def __init__(self, engine: Engine, num_steps: int) -> None:
        self._engine = engine
        self._num_left = num_steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def optimizer_step(self, optimizer: Any) -> None:
        self._engine.optimizer_step(optimizer)
        self._num_left -= 1

    @contextmanager
    def graceful_stop(self) -> Iterator[Callable[[], bool]]:
        yield lambda: self._num_left == 0


def train_weights(problem: Problem, engine: Engine, *, stop_after: int = 0) -> Tensor | None:
    """Trains, with the mean of the last weights, and continues from a checkpoint in the folder of the engine.

    Returns:
        All weights in one vector; None if the training was stopped after `stop_after` steps.
    """
    training = TrainingConfig(learning_rate=0.01, batch_size=3, steps=6, micro_batch_size=1, average_last=0.5)
    with suppress(StoppedError):
        train(
            problem.items, problem.compute_loss, problem.parameters, training, seed=3, recorder=NullRecorder(),
            engine=StoppingEngine(engine, stop_after), prepare=problem.prepare,
        )  # fmt: skip
        return torch.cat([complete(item.detach()).flatten() for item in problem.parameters.values()])
    return None
