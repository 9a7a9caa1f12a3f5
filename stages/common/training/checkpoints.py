"""Checkpoints during training: parameters, their average, optimizer state, losses, and the best dev evaluation."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stages.common.errors import StoppedError
from stages.common.models.backbones.partitioned import complete, is_sharded, sharded_like
from stages.common.protocols import Engine

DEFAULT_INTERVAL_S = 60.0
"""Seconds between checkpoints; the environment variable CLOZELINE_CHECKPOINT_EVERY_S overrides it."""


def interval_s() -> float:
    """Returns the seconds between checkpoints."""
    return float(os.environ.get("CLOZELINE_CHECKPOINT_EVERY_S") or DEFAULT_INTERVAL_S)


class CheckpointTimer:
    """Decides when to save: at intervals, and at the end of a training run that took longer than one interval.

    What a stage does after training may be killed, too, so a long training run is worth a checkpoint at its end.
    """

    def __init__(self) -> None:
        self.started = self.saved = time.monotonic()

    def is_due(self, *, is_over: bool) -> bool:
        """Returns True to save now, and then restarts the interval."""
        now = time.monotonic()
        is_due = now - self.saved > interval_s() or (is_over and now - self.started > interval_s())
        if is_due:
            self.saved = now
        return is_due


@dataclass(slots=True)
class BestCheckpoint:
    """The best evaluation on the dev set, and the parameters at that step."""

    step: int = 0
    rank: tuple[float, float] = (-1.0, 0.0)
    """(accuracy, negative loss): with few dev examples many evaluations have the same accuracy."""
    parameters: dict[str, Any] = field(default_factory=dict)
    num_bad_evals: int = 0
    """Evaluations since then."""


@dataclass(slots=True)
class AveragedParameters:
    """The mean of the parameters over the last steps."""

    num_steps: int = 0
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)

    def update(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Adds the current parameters to the mean."""
        self.num_steps += 1
        with torch.no_grad():
            for name, parameter in parameters.items():
                if self.num_steps == 1:
                    self.parameters[name] = parameter.detach().clone()
                else:
                    self.parameters[name].lerp_(parameter, 1 / self.num_steps)


@dataclass(slots=True)
class Progress:
    """The state of a training run, without parameters and optimizer."""

    losses: list[float] = field(default_factory=list)
    best: BestCheckpoint = field(default_factory=BestCheckpoint)
    average: AveragedParameters = field(default_factory=AveragedParameters)
    stopped: bool = False
    """True if early stopping ended it."""


@dataclass(slots=True)
class Checkpointer:
    """Saves and restores a training run in the folder of its engine; does nothing if the engine has none."""

    engine: Engine
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    name: str = "checkpoint"
    """Name of the file, for a stage with several training runs."""
    timer: CheckpointTimer = field(default_factory=CheckpointTimer)

    def after_step(self, progress: Progress, stop_requested: Callable[[], bool], *, step: int, is_over: bool) -> None:
        """Saves a checkpoint if it is time, or if a stop is requested. The first worker decides for all, and writes.

        Args:
            progress: The state after the step.
            stop_requested: From `engine.graceful_stop`.
            step: Steps done.
            is_over: True after the last step.

        Raises:
            StoppedError: a stop was requested; the checkpoint is saved.
        """
        engine = self.engine
        requests = (self.timer.is_due(is_over=is_over), stop_requested()) if engine.rank == 0 else (False, False)
        is_due, is_stopping = engine.all_reduce_sum(torch.tensor(requests, dtype=torch.float64)).tolist()
        if engine.checkpoint_dir is not None and (is_due or is_stopping):
            state = self._state(progress)  # all workers gather what is sharded
            if engine.rank == 0:
                self._save(engine.checkpoint_dir, state)
        if is_stopping:
            # The first worker that exits ends the others, so wait until the checkpoint is written.
            engine.all_reduce_sum(torch.zeros(1))
            raise StoppedError(step)

    def _state(self, progress: Progress) -> dict[str, Any]:
        """Returns the content of a checkpoint, which is complete on the first worker."""
        best = {name: getattr(progress.best, name) for name in ("step", "rank", "parameters", "num_bad_evals")}
        return {
            "parameters": self._complete(self.parameters),
            "optimizer": dict(self.engine.optimizer_state_dict(self.optimizer)),
            "losses": progress.losses,
            "best": {**best, "parameters": self._complete(progress.best.parameters)},
            "average": {
                "num_steps": progress.average.num_steps,
                "parameters": self._complete(progress.average.parameters),
            },
            "stopped": progress.stopped,
        }

    def _complete(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gathers parameters one by one; the first worker keeps them, in main memory if they were sharded."""
        values = {}
        for name, parameter in parameters.items():
            value = complete(parameter.detach())
            if self.engine.rank == 0:
                values[name] = value.cpu() if is_sharded(parameter) else value
        return values

    def _save(self, checkpoint_dir: Path, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint atomically."""
        target = checkpoint_dir / f"{self.name}.pt"
        temporary = target.with_name(f"{target.name}.part")
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def restore(self) -> Progress:
        """Restores parameters and optimizer from the checkpoint; does nothing if it is missing or damaged."""
        folder = self.engine.checkpoint_dir
        if folder is None or not (folder / f"{self.name}.pt").exists():
            return Progress()
        try:
            state = torch.load(folder / f"{self.name}.pt", map_location="cpu", weights_only=True)
        except (EOFError, OSError, RuntimeError, pickle.UnpicklingError):
            return Progress()  # damaged, for example by a disk error: train from the start
        load_parameters(self.parameters, state["parameters"])
        self.engine.load_optimizer_state_dict(self.optimizer, state["optimizer"])
        best = BestCheckpoint(**{**state["best"], "rank": tuple(state["best"]["rank"])})
        best.parameters = self._like_parameters(best.parameters)
        average = AveragedParameters(
            state["average"]["num_steps"], self._like_parameters(state["average"]["parameters"])
        )
        return Progress(list(state["losses"]), best, average, state["stopped"])

    def _like_parameters(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns complete values on the device of each parameter, sharded as it is."""
        return {name: sharded_like(value, self.parameters[name]) for name, value in values.items()}


def load_parameters(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Sets parameters to values, by name."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sharded_like(values[name], parameter))
