"""The state of a run: one record per step. Knows nothing about Ray or MLflow.

A step that ends counts down the open upstream steps of those that read it, and one that reaches zero becomes ready. So
the work of a run grows with its steps and their inputs, and no turn looks at all steps.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.steps.plan import PlannedStep
from cluster.steps.step import Step
from cluster.store.manifest import Manifest, SharedParts


class Phase(StrEnum):
    """WAITING -> QUEUED -> RUNNING -> COMMITTED or FAILED; a retry goes back to WAITING.

    A QUEUED step was submitted to Ray, which has no room for it yet. A step whose result is cached goes from WAITING to
    COMMITTED, a step without its inputs to BLOCKED. STOPPED: the run was interrupted before the step had a result.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    COMMITTED = "committed"
    FAILED = "failed"
    BLOCKED = "blocked"
    STOPPED = "stopped"


OPEN = (Phase.WAITING, Phase.QUEUED, Phase.RUNNING)


@dataclass(slots=True, eq=False)
class StepState:
    """One step of a run.

    Args:
        planned: The step as the plan has it.
        index: Its position in the plan.
        upstream: The steps that it reads, each once; without those that the plan leaves out.
        downstream: The steps that read it.
        num_open_upstream: How many of `upstream` have not come to an end.
        phase: What happens to it now.
        manifest: Its result, once it is COMMITTED.
        content_digest: The digest of the files of its result.
        num_attempts: Attempts of this run; preemptions and second attempts do not count.
        num_starts: Attempts that started in this run, all of them.
        run_id: MLflow run of the attempt that is RUNNING.
        is_held: True while another driver runs this step; `was_held` stays True.
        expired_token: The lease of another driver that has expired.
        may_start: False after the failure of another step, unless the run keeps going.
    """

    planned: PlannedStep
    index: int
    upstream: tuple[StepState, ...] = ()
    downstream: list[StepState] = field(default_factory=list)
    num_open_upstream: int = 0
    phase: Phase = Phase.WAITING
    manifest: Manifest | None = None
    content_digest: str = ""
    num_attempts: int = 0
    num_starts: int = 0
    run_id: str | None = None
    is_held: bool = False
    was_held: bool = False
    expired_token: str = ""
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
        return self.phase in OPEN

    @property
    def missing_upstream(self) -> str | None:
        """The first upstream step that failed or is blocked."""
        return next((item.name for item in self.upstream if item.phase in (Phase.FAILED, Phase.BLOCKED)), None)

    def inputs(self) -> dict[str, Manifest]:
        """Returns the results of the upstream steps that have one, by name, with what a worker reads of them."""
        return {item.name: _input_part(item.manifest) for item in self.upstream if item.manifest is not None}

    def fits_upstream(self, manifest: Manifest) -> bool:
        """Returns True if a result of this step was computed from the current results of its upstream."""
        return all(
            manifest.upstream_digests.get(item.name) == item.content_digest
            for item in self.upstream
            if item.manifest is not None
        )


class RunState:
    """The steps of a run, upstream first."""

    def __init__(self, plan: Iterable[PlannedStep]) -> None:
        self.steps: dict[str, StepState] = {}
        self.num_open = 0
        self._is_held_back = False
        self._shared = SharedParts()
        self._ready: list[tuple[int, StepState]] = []
        """Steps whose upstream has come to an end, whether well or not: a heap by position."""
        self._runnable: list[tuple[int, StepState]] = []
        """Steps to submit."""
        self._deferred: list[tuple[float, int, StepState]] = []
        """Steps that may not start before a time of the monotonic clock."""
        for planned in plan:
            names = dict.fromkeys(item.name for item in planned.step.upstream())
            upstream = tuple(self.steps[name] for name in names if name in self.steps)
            step = StepState(planned, len(self.steps), upstream, num_open_upstream=len(upstream))
            self.steps[planned.name] = step
            self.num_open += 1
            for item in upstream:
                item.downstream.append(step)
            if not upstream:
                heapq.heappush(self._ready, (step.index, step))

    def in_phase(self, phase: Phase) -> list[StepState]:
        """Returns the steps that are in a phase now. Looks at all steps."""
        return [item for item in self.steps.values() if item.phase is phase]

    def pop_ready(self) -> StepState | None:
        """Returns the first step whose upstream has come to an end, once."""
        return heapq.heappop(self._ready)[1] if self._ready else None

    def add_runnable(self, step: StepState) -> None:
        """Makes a step one of those to submit."""
        heapq.heappush(self._runnable, (step.index, step))

    def pop_runnable(self, now_s: float) -> StepState | None:
        """Returns the next step to submit."""
        while self._deferred and self._deferred[0][0] <= now_s:
            self.add_runnable(heapq.heappop(self._deferred)[2])
        return heapq.heappop(self._runnable)[1] if self._runnable else None

    def defer(self, step: StepState, until_s: float) -> None:
        """Makes a step one of those to submit at a time of the monotonic clock, in seconds."""
        step.phase = Phase.WAITING
        heapq.heappush(self._deferred, (until_s, step.index, step))

    @property
    def next_deferred_s(self) -> float | None:
        """When the next deferred step may be submitted; None if there is none."""
        return self._deferred[0][0] if self._deferred else None

    def commit(self, step: StepState, manifest: Manifest) -> None:
        """Ends a step that has a result."""
        step.manifest = self._shared.apply(manifest, step.planned.key)
        # One copy for this step and for those that read it.
        step.content_digest = sys.intern(manifest.content_digest)
        self.end(step, Phase.COMMITTED)

    def end(self, step: StepState, phase: Phase) -> None:
        """Ends a step. Steps for which it was the last open upstream become ready."""
        step.phase = phase
        self.num_open -= 1
        for item in step.downstream:
            item.num_open_upstream -= 1
            if not item.num_open_upstream:
                item.may_start = not self._is_held_back
                heapq.heappush(self._ready, (item.index, item))

    def hold_back(self) -> None:
        """After a failure: only steps whose upstream has ended already may still start."""
        self._is_held_back = True


def _input_part(manifest: Manifest) -> Manifest:
    return replace(manifest, key={}, result=None, metrics={}, versions={}, provenance={}, acceptances=())
