"""Checkpoints during training: parameters, optimizer state, losses so far, and the best evaluation on the dev set."""

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
from stages.common.protocols import Engine

DEFAULT_INTERVAL_S = 60.0
"""Seconds between checkpoints; the environment variable CLOZELINE_CHECKPOINT_EVERY_S says otherwise."""


def interval_s() -> float:
    """Seconds between checkpoints."""
    return float(os.environ.get("CLOZELINE_CHECKPOINT_EVERY_S") or DEFAULT_INTERVAL_S)


class CheckpointTimer:
    """Says when it is time for a checkpoint: every so often, and at the end of a training that took as long, since what
    its stage does afterwards may be killed, too.
    """

    def __init__(self) -> None:
        self.started = self.saved = time.monotonic()

    def is_due(self, *, is_over: bool) -> bool:
        """Whether to save now; counts as saved if so."""
        now = time.monotonic()
        is_time = now - self.saved > interval_s() or (is_over and now - self.started > interval_s())
        if is_time:
            self.saved = now
        return is_time


@dataclass(slots=True)
class BestCheckpoint:
    """The best look at the dev set: its step, (accuracy, negated loss), and the parameters then."""

    step: int = 0
    dev_score: tuple[float, float] = (-1.0, 0.0)
    parameters: dict[str, Any] = field(default_factory=dict)
    num_bad_evals: int = 0
    """Looks since then."""


@dataclass(slots=True)
class Progress:
    """How far a training is. `stopped`: early stopping ended it."""

    losses: list[float] = field(default_factory=list)
    best: BestCheckpoint = field(default_factory=BestCheckpoint)
    stopped: bool = False


def maybe_save(
    engine: Engine,
    clock: CheckpointTimer,
    stop_requested: Callable[[], bool],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    step: int,
    is_over: bool,
) -> None:
    """Behind every step: saves when it is time, or when the training is asked to end, which it then does.

    Args:
        engine: Its first worker decides for all, and writes.
        clock: Says when it is time.
        stop_requested: From `engine.listening`.
        parameters: What is trained.
        optimizer: Holds the moments.
        progress: How far it is.
        step: Steps made.
        is_over: Whether this was the last.

    Raises:
        StoppedError: it was asked to end; the checkpoint is there.
    """

    wishes = (clock.is_due(is_over=is_over), stop_requested()) if engine.rank == 0 else (False, False)
    is_time, is_leaving = engine.all_reduce_sum(torch.tensor(wishes, dtype=torch.float64)).tolist()
    if engine.checkpoint_dir is not None and (is_time or is_leaving):
        moments = engine.optimizer_state_dict(optimizer)
        if engine.rank == 0:
            save(engine.checkpoint_dir, parameters, moments, progress)
    if is_leaving:
        engine.all_reduce_sum(
            torch.zeros(1)
        )  # who leaves first takes the others along, so the first worker has to have written
        raise StoppedError(step)


def save(
    checkpoint_dir: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer_state: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Writes a checkpoint, which appears whole or not at all. `optimizer_state`: the optimizer's state."""

    best = progress.best
    state: dict[str, Any] = {
        "parameters": {name: parameter.detach() for name, parameter in parameters.items()},
        "optimizer": dict(optimizer_state),
        "losses": progress.losses,
        "best": {
            "step": best.step,
            "dev_score": best.dev_score,
            "parameters": best.parameters,
            "num_bad_evals": best.num_bad_evals,
        },
        "stopped": progress.stopped,
    }
    temporary = checkpoint_dir / "checkpoint.pt.part"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(checkpoint_dir / "checkpoint.pt")


def restore(engine: Engine, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> Progress:
    """Puts a checkpoint back, if there is a sound one."""

    if engine.checkpoint_dir is None or not (engine.checkpoint_dir / "checkpoint.pt").exists():
        return Progress()
    try:
        state = torch.load(engine.checkpoint_dir / "checkpoint.pt", map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError):
        # Not what was written, as after a disk's fault: better from the beginning than not at all.
        return Progress()
    load_parameters(parameters, state["parameters"])
    engine.load_optimizer_state_dict(optimizer, state["optimizer"])
    best = BestCheckpoint(**{**state["best"], "dev_score": tuple(state["best"]["dev_score"])})
    return Progress(list(state["losses"]), best, state["stopped"])


def load_parameters(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Sets parameters to values, by name."""

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
