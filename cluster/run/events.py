"""Events of a run, as values for displays and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cluster.errors import StepFailedError


@dataclass(frozen=True, slots=True)
class StepQueued:
    """A step was submitted to Ray, and waits for machines to have room for it. `waits_for`: such as `1 GPU`."""

    step: str
    waits_for: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step runs. `attempt` counts from 1; `log` is the address of its log file."""

    step: str
    attempt: int
    log: str


@dataclass(frozen=True, slots=True)
class StepStartedAgain:
    """A step that takes `ratio` times as long as others of its kind also runs on another node. See `StepStarted`."""

    step: str
    attempt: int
    log: str
    ratio: float


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step has finished `done` of `total` units of its phase.

    `info` may contain `phase`, `loss` (of the last batch), `examples_per_s` and `eta_s` (seconds until the phase ends).
    """

    step: str
    done: int
    total: int
    info: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step has a result. `seconds` is how long it took to compute, `metrics` the last value of every metric."""

    step: str
    seconds: float
    cached: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt failed. `retry_in_s` is None if there is no further attempt."""

    step: str
    error: StepFailedError
    retry_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class StepBlocked:
    """A step cannot run in this run."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepWaiting:
    """Another driver runs this step; its result will be used."""

    step: str
    owner: str


@dataclass(frozen=True, slots=True)
class RayStarting:
    """Ray is starting, which takes a few seconds."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something outside the steps fails, and the run continues. Each problem is reported once."""

    problem: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Ctrl-C. `steps` are running: they are canceled or finish their commit. `at_once`: the process ends now."""

    steps: tuple[str, ...] = ()
    at_once: bool = False


Event: TypeAlias = (
    StepQueued
    | StepStarted
    | StepStartedAgain
    | StepProgress
    | StepFinished
    | StepFailed
    | StepBlocked
    | StepWaiting
    | RayStarting
    | Warned
    | Interrupted
)
EventHandler = Callable[[Event], None]
