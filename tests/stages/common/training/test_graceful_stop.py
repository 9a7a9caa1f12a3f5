"""A training that is asked to end: it saves, leaves, and goes on as if nothing had been."""

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


class Asked(InProcessEngine):
    """An engine whose training is asked to end within step `at`, from 1."""

    def __init__(self, work: Path, at: int) -> None:
        super().__init__(work)
        self.at, self.num_steps, self.listens = at, 0, False

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().step(optimizer)
        self.num_steps += 1

    @contextmanager
    def graceful_stop(self) -> Iterator[Callable[[], bool]]:
        self.listens = True
        yield lambda: self.num_steps >= self.at
        self.listens = False


def parameters() -> dict[str, torch.nn.Parameter]:
    return {"weight": torch.nn.Parameter(torch.tensor([[0.5]]))}


def alone(engine: InProcessEngine, weights: dict[str, torch.nn.Parameter]) -> list[float]:
    """One training of a line through noise."""

    def loss_of(batch: list[float]) -> torch.Tensor:
        return ((weights["weight"] * torch.tensor(batch) - 1 + torch.rand(1)) ** 2).mean()

    return train(ITEMS, loss_of, weights, LOOP, seed=1, recorder=NullRecorder(), engine=engine)


def together(engine: InProcessEngine, weights: dict[str, torch.nn.Parameter]) -> list[float]:
    """The same without noise, as one of several."""

    def losses_of(batches: Batches) -> list[torch.Tensor]:
        return [((weights["weight"] * torch.tensor(batch) - 1) ** 2).mean() for _, batch in batches]

    trainings = [TrainingJob("line", ITEMS, weights, LOOP, 1)]
    return train_batched(trainings, losses_of, NullRecorder(), engine)[0]


@pytest.mark.parametrize("run", [alone, together])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_training_that_is_asked_to_end_saves_behind_its_step_and_goes_on_from_there(
    at: int, run: Callable[..., list[float]], tmp_path: Path
) -> None:
    unbroken, broken = parameters(), parameters()
    losses = run(InProcessEngine(), unbroken)
    with pytest.raises(StoppedError, match=f"saved a checkpoint behind step {at}") as caught:
        run(Asked(tmp_path, at), broken)
    told = pickle.loads(pickle.dumps(caught.value))
    assert str(told) == str(caught.value) and told.transient and told.is_asked
    later, again = Asked(tmp_path, 99), parameters()
    assert run(later, again) == losses
    assert later.num_steps == 8 - at, "no step is made twice"
    assert not later.listens, "nothing is left to be asked"
    assert torch.equal(again["weight"], unbroken["weight"])
