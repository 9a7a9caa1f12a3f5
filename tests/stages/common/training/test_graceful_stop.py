"""Tests of a requested stop: training saves a checkpoint, exits, and resumes with the same result."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stages.common.engine import InProcessEngine
from stages.common.errors import StoppedError
from stages.common.protocols import NullRecorder
from stages.common.training.batched import Batches, TrainingJob, train_batched
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import train

LOOP = TrainingConfig(learning_rate=0.05, batch_size=3, steps=8)
ITEMS = [float(number) for number in range(10)]


class StoppingEngine(InProcessEngine):
    """An engine with a stop request during step `at`, counted from 1."""

    def __init__(self, work: Path, at: int) -> None:
        super().__init__(work)
        self.at, self.num_steps, self.defers_signals = at, 0, False

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().optimizer_step(optimizer)
        self.num_steps += 1

    @contextmanager
    def graceful_stop(self) -> Iterator[Callable[[], bool]]:
        self.defers_signals = True
        yield lambda: self.num_steps >= self.at
        self.defers_signals = False


def parameters() -> dict[str, torch.nn.Parameter]:
    return {"weight": torch.nn.Parameter(torch.tensor([[0.5]]))}


def train_alone(engine: InProcessEngine, weights: dict[str, torch.nn.Parameter]) -> list[float]:
    """Fits a line to noise."""

    def compute_loss(part: list[float], batch: list[float]) -> torch.Tensor:
        assert part == batch
        return ((weights["weight"] * torch.tensor(part) - 1 + torch.rand(1)) ** 2).mean()

    return train(ITEMS, compute_loss, weights, LOOP, seed=1, recorder=NullRecorder(), engine=engine)


def train_in_batch(engine: InProcessEngine, weights: dict[str, torch.nn.Parameter]) -> list[float]:
    """Fits the same line without noise, as a batched job."""

    def compute_losses(batches: Batches) -> list[torch.Tensor]:
        return [((weights["weight"] * torch.tensor(batch) - 1) ** 2).mean() for _, batch in batches]

    jobs = [TrainingJob("line", ITEMS, weights, LOOP, 1)]
    return train_batched(jobs, compute_losses, NullRecorder(), engine)[0]


@pytest.mark.parametrize("run", [train_alone, train_in_batch])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_stop_saves_after_the_step_and_training_resumes_from_there(
    at: int, run: Callable[..., list[float]], tmp_path: Path
) -> None:
    uninterrupted, stopped = parameters(), parameters()
    losses = run(InProcessEngine(), uninterrupted)
    with pytest.raises(StoppedError, match=f"saved a checkpoint after step {at}") as caught:
        run(StoppingEngine(tmp_path, at), stopped)
    restored = pickle.loads(pickle.dumps(caught.value))
    assert str(restored) == str(caught.value) and restored.transient and restored.is_preemption
    resumed, weights = StoppingEngine(tmp_path, 99), parameters()
    assert run(resumed, weights) == losses
    assert resumed.num_steps == 8 - at, "no step is repeated"
    assert not resumed.defers_signals
    assert torch.equal(weights["weight"], uninterrupted["weight"])
