"""The options of a run, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.errors import StepFailedError
from cluster.steps.plan import Selection
from cluster.store.lease import TTL_S
from cluster.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions(Selection):
    """How to run, beside which steps.

    Args:
        keep_going: After a failure, go on with all that does not need the failed step; else only with what was ready
            at that moment.
        max_parallel: Most steps at a time; None: as many as the cluster has room for.
        address: A running Ray; None: that of RAY_ADDRESS, else one that is started here when a step has to run.
        num_cpus: CPUs of a Ray that is started here.
        backoff_s: Pause before the second attempt, in seconds; doubled for each one after.
        ttl_s: Seconds without a heartbeat after which another driver's step is taken over.
        poll_s: Seconds between looks at progress and at other drivers' steps.
    """

    keep_going: bool = False
    max_parallel: int | None = None
    address: str | None = None
    num_cpus: int | None = None
    backoff_s: float = 1.0
    ttl_s: float = TTL_S
    poll_s: float = 0.5


class Status(StrEnum):
    """How one step ended."""

    EXECUTED = "executed"
    CACHED = "cached"
    FAILED = "failed"
    BLOCKED = "blocked"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One step of a run.

    `seconds` is its duration, now or when it was run; `run_id` its MLflow run of this pipeline run, `source_run_id`
    the one that made a cached result; `reason` says why it was run, failed or is blocked.
    """

    step: str
    fingerprint: str
    status: Status
    seconds: float = 0.0
    run_id: str | None = None
    source_run_id: str | None = None
    manifest: Manifest | None = None
    reason: str = ""


@dataclass(slots=True)
class RunResult:
    """A run.

    `steps` has every chosen step, in the order in which they ended; `wall_s` is the whole time in seconds;
    `signal` is the number of the signal that ended it, of Ctrl-C or SIGTERM; 0: none did.
    """

    steps: dict[str, StepResult] = field(default_factory=dict)
    errors: dict[str, StepFailedError] = field(default_factory=dict)
    wall_s: float = 0.0
    signal: int = 0

    def _with(self, status: Status) -> tuple[str, ...]:
        return tuple(name for name, report in self.steps.items() if report.status is status)

    @property
    def executed(self) -> tuple[str, ...]:
        """Steps that were run and committed."""
        return self._with(Status.EXECUTED)

    @property
    def cached(self) -> tuple[str, ...]:
        """Steps whose committed result was taken."""
        return self._with(Status.CACHED)

    @property
    def failed(self) -> tuple[str, ...]:
        """Steps whose last attempt failed; see `errors`."""
        return self._with(Status.FAILED)

    @property
    def blocked(self) -> dict[str, str]:
        """Steps that could not be run, with the reason."""
        return {name: self.steps[name].reason for name in self._with(Status.BLOCKED)}

    @property
    def stopped(self) -> tuple[str, ...]:
        """Steps that Ctrl-C ended, or that were not started any more."""
        return self._with(Status.STOPPED)

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal ended it."""
        return bool(self.signal)

    @property
    def ok(self) -> bool:
        """Whether every step has a result."""
        return not self.failed and not self.blocked and not self.stopped

    @property
    def manifests(self) -> dict[str, Manifest]:
        """The results, by step."""
        return {name: report.manifest for name, report in self.steps.items() if report.manifest is not None}
