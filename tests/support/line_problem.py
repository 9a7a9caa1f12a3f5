"""A small regression problem, whose model records the order of its items."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stages.common.engine import InProcessEngine
from stages.common.losses import ComputeLoss, mean_share
from stages.common.metrics.classification import DevScore
from stages.common.protocols import NullRecorder
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import Validation, train


class Line:
    """y = w x + b with dropout on x, fitted to items (x, y); records their order."""

    def __init__(self, dropout: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.nn.Parameter(torch.randn(1, 4, generator=generator))
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.dropout = dropout
        self.seen: list[list[int]] = []

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"weight": self.weight, "bias": self.bias}

    def loss(self, part: list[int], batch: list[int] | None = None) -> Tensor:
        self.seen.append(list(part))
        number = torch.tensor(part, dtype=torch.float32)
        inputs = torch.stack([number.sin(), number.cos(), (2 * number).sin(), (2 * number).cos()], dim=1)
        inputs = torch.nn.functional.dropout(inputs, self.dropout)
        target = 2 * number.sin() - (2 * number).cos() + 0.5
        mean = ((inputs @ self.weight.T)[:, 0] + self.bias - target).square().mean()
        return mean * mean_share(part, batch or part)


ITEMS = list(range(10))


def fit(
    model: Line,
    config: TrainingConfig,
    *,
    seed: int = 0,
    work: Path | None = None,
    loss: ComputeLoss[int] | None = None,
    validate: Validation | None = None,
    recorder: NullRecorder | None = None,
) -> list[float]:
    return train(
        ITEMS, loss or model.loss, model.parameters, config,
        seed=seed, recorder=recorder or NullRecorder(), engine=InProcessEngine(work), validate=validate,
    )  # fmt: skip


def config(**settings: object) -> TrainingConfig:
    return TrainingConfig(**({"learning_rate": 0.05, "batch_size": 4, "steps": 12} | settings))


class DevEvaluations:
    """A dev set with given accuracy and loss for each evaluation."""

    def __init__(self, *results: tuple[float, float], skip: int = 0) -> None:
        self.left = [DevScore(*result) for result in results][skip:]

    def __call__(self) -> DevScore:
        return self.left.pop(0)


def stopping(**settings: object) -> TrainingConfig:
    """Returns a config with early stopping."""
    return config(steps=20, early_stopping={"eval_steps": 2, "patience": 2}, **settings)
