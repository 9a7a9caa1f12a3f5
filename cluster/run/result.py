"""The options of a run, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.errors import StepFailedError
from cluster.run.speculation import Speculation
from cluster.steps.plan import Selection
from cluster.store.lease import TTL_S
from cluster.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions(Selection):
    """How to run the selected steps.

    Args:
        engine: Class of the engine for steps with one process, as `module:class`. It is called with `checkpoint_dir`,
            `graceful_stop` and `map_batches`.
        identify: Function that computes the digest of what a name in `Step.files` means, as `module:function`.
        locate: Function that returns the local file or folder that such a name means, or None if it is not here yet.
        keep_going: After a failure, run every step that does not need the failed one. If False, run only the steps
            that were ready at that moment.
        max_parallel: Maximum number of steps that wait in Ray or run; None: all whose inputs are committed.
        address: Address of a running Ray; None: that of RAY_ADDRESS, or a new local Ray.
        num_cpus: CPUs of a local Ray that is started here.
        backoff_s: Pause before the second attempt, in seconds; doubled before each further attempt.
        ttl_s: Seconds without a heartbeat after which the step of another driver is taken over.
        poll_s: Seconds between checks of progress and of steps that other drivers run.
        speculation: When a slow step also starts on another node; None: never. See `cluster.run.speculation`.
    """

    engine: str
    identify: str = "cluster.store.files:file_digest"
    locate: str = "pathlib:Path"
    keep_going: bool = False
    max_parallel: int | None = None
    address: str | None = None
    num_cpus: int | None = None
    backoff_s: float = 1.0
    ttl_s: float = TTL_S
    poll_s: float = 0.5
    speculation: Speculation | None = None


class Status(StrEnum):
    """How a step ended."""

    EXECUTED = "executed"
    CACHED = "cached"
    FAILED = "failed"
    BLOCKED = "blocked"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One step of a run.

    Args:
        step: Name of the step.
        fingerprint: Its fingerprint.
        status: How it ended.
        seconds: Duration of the attempt that computed the result, in this run or an earlier one.
        run_id: Its MLflow run, which belongs to this pipeline run. See `Tracker.find_run`.
        source_run_id: The MLflow run that computed a cached result.
        manifest: Its result, if there is one.
        reason: Why it was run, failed or is blocked.
        attempts: Number of attempts that this run started, those on a second node included.
    """

    step: str
    fingerprint: str
    status: Status
    seconds: float = 0.0
    run_id: str | None = None
    source_run_id: str | None = None
    manifest: Manifest | None = None
    reason: str = ""
    attempts: int = 0


@dataclass(slots=True)
class RunResult:
    """The result of a run.

    Args:
        steps: Every selected step, in the order in which they ended.
        errors: The last error of each failed step.
        wall_s: Duration of the run in seconds.
        signal: Number of the signal that ended the run, such as SIGTERM; 0 if no signal did.
    """

    steps: dict[str, StepResult] = field(default_factory=dict)
    errors: dict[str, StepFailedError] = field(default_factory=dict)
    wall_s: float = 0.0
    signal: int = 0

    def _with_status(self, status: Status) -> tuple[str, ...]:
        return tuple(name for name, step in self.steps.items() if step.status is status)

    @property
    def executed(self) -> tuple[str, ...]:
        """Steps that ran and were committed."""
        return self._with_status(Status.EXECUTED)

    @property
    def cached(self) -> tuple[str, ...]:
        """Steps whose committed result was used."""
        return self._with_status(Status.CACHED)

    @property
    def failed(self) -> tuple[str, ...]:
        """Steps whose last attempt failed; see `errors`."""
        return self._with_status(Status.FAILED)

    @property
    def blocked(self) -> dict[str, str]:
        """Steps that could not run, with the reason."""
        return {name: self.steps[name].reason for name in self._with_status(Status.BLOCKED)}

    @property
    def stopped(self) -> tuple[str, ...]:
        """Steps that Ctrl-C ended or kept from starting."""
        return self._with_status(Status.STOPPED)

    @property
    def num_attempts(self) -> int:
        """Number of attempts that the run started."""
        return sum(step.attempts for step in self.steps.values())

    @property
    def is_interrupted(self) -> bool:
        """True if a signal ended the run."""
        return bool(self.signal)

    @property
    def ok(self) -> bool:
        """True if every step has a result."""
        return not self.failed and not self.blocked and not self.stopped

    @property
    def manifests(self) -> dict[str, Manifest]:
        """The results, by step."""
        return {name: step.manifest for name, step in self.steps.items() if step.manifest is not None}
