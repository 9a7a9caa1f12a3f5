"""The state of a run: one record per step. Knows nothing about Ray or MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from cluster.steps.plan import PlannedStep, stale_upstream
from cluster.steps.step import Step
from cluster.store.manifest import Manifest


class Phase(StrEnum):
    """WAITING -> RUNNING -> COMMITTED or FAILED; a retry goes back to WAITING.

    A step whose result is cached goes from WAITING to COMMITTED, a step without its inputs to BLOCKED. STOPPED: the
    run was interrupted before the step had a result.
    """

    WAITING = "waiting"
    RUNNING = "running"
    COMMITTED = "committed"
    FAILED = "failed"
    BLOCKED = "blocked"
    STOPPED = "stopped"


@dataclass(slots=True, eq=False)
class StepState:
    """One step of a run.

    Args:
        planned: The step as the plan has it.
        upstream: The steps that it reads, each once; without those that the plan leaves out.
        phase: What happens to it now.
        manifest: Its result, once it is COMMITTED.
        num_attempts: Attempts of this run; preemptions do not count.
        retry_at_s: It may not start before this time of the monotonic clock, in seconds.
        run_id: MLflow run of the attempt that is RUNNING.
        is_wait_reported: True once the user was informed that another driver runs this step.
        may_start: False after the failure of another step, unless the run keeps going.
    """

    planned: PlannedStep
    upstream: tuple[StepState, ...] = ()
    phase: Phase = Phase.WAITING
    manifest: Manifest | None = None
    num_attempts: int = 0
    retry_at_s: float = 0.0
    run_id: str | None = None
    is_wait_reported: bool = False
    may_start: bool = True

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.planned.name

    @property
    def step(self) -> Step:
        """The step itself."""
        return self.planned.step

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the step."""
        return self.planned.fingerprint

    @property
    def is_open(self) -> bool:
        """True until the step has a result, or cannot get one in this run."""
        return self.phase in (Phase.WAITING, Phase.RUNNING)

    @property
    def is_ready(self) -> bool:
        """True if the step waits, and every upstream step has come to an end, whether well or not."""
        return self.phase is Phase.WAITING and not any(item.is_open for item in self.upstream)

    @property
    def missing_upstream(self) -> str | None:
        """The first upstream step that failed or is blocked."""
        return next((item.name for item in self.upstream if item.phase in (Phase.FAILED, Phase.BLOCKED)), None)

    @property
    def upstream_manifests(self) -> dict[str, Manifest]:
        """The results of the upstream steps that have one, by name."""
        return {item.name: item.manifest for item in self.upstream if item.manifest is not None}

    def fits_upstream(self, manifest: Manifest) -> bool:
        """Returns True if a result of this step was computed from the current results of its upstream."""
        return stale_upstream(self.step, manifest, self.upstream_manifests) is None


class RunState:
    """The steps of a run, upstream first."""

    def __init__(self, plan: Iterable[PlannedStep]) -> None:
        self.steps: dict[str, StepState] = {}
        for planned in plan:
            names = dict.fromkeys(item.name for item in planned.step.upstream())
            upstream = tuple(self.steps[name] for name in names if name in self.steps)
            self.steps[planned.name] = StepState(planned, upstream)

    def in_phase(self, phase: Phase) -> list[StepState]:
        """Returns the steps that are in a phase now."""
        return [item for item in self.steps.values() if item.phase is phase]

    @property
    def is_open(self) -> bool:
        """True while a step waits or runs."""
        return any(item.is_open for item in self.steps.values())

    def ready(self) -> Iterator[StepState]:
        """Yields the steps whose upstream has come to an end; looks at each step when its turn comes."""
        return (item for item in self.steps.values() if item.is_ready)

    def hold_back(self) -> None:
        """After a failure: only steps whose upstream is committed already may still start."""
        for item in self.in_phase(Phase.WAITING):
            item.may_start = all(upstream.manifest is not None for upstream in item.upstream)
