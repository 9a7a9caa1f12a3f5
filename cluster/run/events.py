"""Events of a run, as values for displays and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cluster.errors import StepFailedError as StepError


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step was given to Ray. `attempt` counts from 1."""

    step: str
    attempt: int
    log: str


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step is at `done` of `total` of its phase.

    `info` has what is known of: `phase`, `loss` (the last batch's), `examples_per_s`, `eta_s` (seconds until the phase
    ends).
    """

    step: str
    done: int
    total: int
    info: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step is committed; `seconds` is how long it took, now or when it was run; `figures` ends all its curves."""

    step: str
    seconds: float
    cached: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt failed. `retry_in_s` is None if it was the last one."""

    step: str
    error: StepError
    retry_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class StepBlocked:
    """A step cannot be run in this run."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepWaiting:
    """Another driver runs this step; its result will be taken."""

    step: str
    owner: str


@dataclass(frozen=True, slots=True)
class RayStarting:
    """Ray is being started, which takes some seconds."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Ctrl-C. `steps` still run: they are cancelled, or finish their commit. `at_once`: the process ends here."""

    steps: tuple[str, ...] = ()
    at_once: bool = False


Event: TypeAlias = (
    StepStarted | StepProgress | StepFinished | StepFailed | StepBlocked | StepWaiting | RayStarting | Interrupted
)
EventHandler = Callable[[Event], None]
