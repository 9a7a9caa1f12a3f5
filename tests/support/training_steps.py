"""A step that trains a small network with the training loop of the stages, and can be stopped at a chosen moment."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pydantic import BaseModel, Field

from cluster.steps.step import Resources, Step
from cluster.store import local
from cluster.store.files import write_atomic
from stages.common.losses import mean_share
from stages.common.training.config import TrainingConfig
from stages.common.training.loop import train
from tests.support.steps import function_name


class Config(BaseModel, frozen=True, extra="forbid"):
    """How long to train. While the file `fault` exists, the step waits at one point.

    That is at the optimizer step `at`, or if `at` is 0 within its commit, between the last file and the manifest.
    `counter` is a file that gets one byte for every optimizer step.
    """

    seed: int = 0
    steps: int = 30
    fault: str = Field("", json_schema_extra={"identity": False})
    at: int = Field(15, json_schema_extra={"identity": False})
    counter: str = Field("", json_schema_extra={"identity": False})


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Earlier training steps."""

    parts: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The loss of every optimizer step."""

    losses: tuple[float, ...]


def run(config: Config, inputs: Inputs, out: Path, recorder: Any, engine: Any) -> Result:
    """Trains y = f(x) with dropout and saves the weights."""
    generator = torch.Generator().manual_seed(config.seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    items = list(torch.rand(24, 4, generator=generator))
    num_batches = 0

    def compute_loss(part: list[torch.Tensor], batch: list[torch.Tensor]) -> torch.Tensor:
        nonlocal num_batches
        num_batches += 1
        if config.counter:
            with Path(config.counter).open("a") as file:
                file.write(".")
        if config.fault and num_batches == config.at:
            _wait(Path(config.fault))
        x_BD = torch.stack(part)
        loss: torch.Tensor = ((model(x_BD).squeeze(1) - x_BD.sum(1)) ** 2).mean() * mean_share(part, batch)
        return loss

    losses = train(
        items,
        compute_loss,
        dict(model.named_parameters()),
        TrainingConfig(learning_rate=0.01, batch_size=4, steps=config.steps),
        seed=config.seed,
        recorder=recorder,
        engine=engine,
    )
    if config.fault and config.at == 0:
        _wait_within_commit(Path(config.fault))
    torch.save(model.state_dict(), out / "model.pt")
    (out / "upstream.txt").write_text("".join((part / "upstream.txt").read_text() for part in inputs.parts) + "x")
    return Result(losses=tuple(losses))


def _wait_within_commit(fault: Path) -> None:
    """Makes the next commit wait before it writes the manifest."""

    def write_late(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "manifest.json":
            replaced.stop()
            assert list(path.parent.glob("files/*/model.pt"))
            _wait(fault)
        write_atomic(path, *arguments, **options)

    replaced = mock.patch.object(local, "write_atomic", write_late)
    replaced.start()


def _wait(fault: Path) -> None:
    """Writes the process id to the file `fault`, and waits until the file is removed."""
    if fault.exists():
        fault.write_text(str(os.getpid()))
    while fault.exists():
        time.sleep(0.02)


def trainer(name: str, *parts: Step, cpus: float = 1, **config: Any) -> Step:
    """Returns a step of this module."""
    inputs: dict[str, Any] = {"parts": parts} if parts else {}
    return Step(
        name=name, run=function_name(run), config=Config(**config), inputs=inputs, resources=Resources(cpus=cpus)
    )


def chain(counter: Path, fault: Path | None = None, at: int = 15) -> Step:
    """Returns three training steps, one after another; the second has the fault."""
    first = trainer("train/first", seed=1, counter=str(counter))
    second = trainer("train/second", first, seed=2, counter=str(counter), fault=str(fault or ""), at=at)
    return trainer("train/third", second, seed=3, counter=str(counter))
