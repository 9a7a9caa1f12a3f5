"""Errors of the engine, each with its remedy.

ClusterError
├── GraphError                the steps do not form a graph: a cycle, a duplicate name, a function without a module
├── FingerprintError          a value has no canonical form; the remedy names a type that has one
├── StoreError                the store cannot be used
│   ├── StoreUnreachableError its server failed in all attempts
│   ├── LeaseHeldError        another driver runs this step
│   ├── LeaseLostError        another driver took this step over; nothing was committed
│   ├── OutdatedManifestError a version with another manifest format committed the result
│   └── CorruptResultError    committed files are missing or changed
├── AcceptError               more than code and library versions differs from a result that a user accepts
├── MissingUpstreamError      a step was selected, but a result that it needs is not committed
├── StepFailedError           a step's own function failed, or its worker died
├── WorkersLostError          some of a step's workers ended before the step did
├── PreemptedError            the cluster takes a step's machine away (SIGTERM)
├── OffloadError              frozen weights cannot be stored on a machine's disk
├── SessionError              Ray cannot be started or reached, or lacks the resources that a step requests
└── TrackingError             MLflow cannot be used as requested

Every error has `problem` and `remedy`, prints both, and survives pickling.
"""

from __future__ import annotations

from typing import Any


class ClusterError(Exception):
    """Base of all errors of the engine. `problem` says what is wrong, `remedy` what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self.__dict__))


class GraphError(ClusterError):
    """The steps do not form a graph."""


class FingerprintError(ClusterError):
    """A value has no canonical form, so that nobody could tell whether it changed."""


class StoreError(ClusterError):
    """The store cannot be used."""


class StoreUnreachableError(StoreError):
    """The store's server did not answer, again and again. `transient`: a step that met it may be tried once more."""

    transient = True

    def __init__(self, url: str, what: str, reason: str) -> None:
        super().__init__(
            f"the store {url} is out of reach: {what} failed ({reason}).",
            "Run again when it answers: what is committed stays.",
        )


class LeaseHeldError(StoreError):
    """Another driver works on this step. `owner` says who."""

    def __init__(self, step: str, owner: str) -> None:
        super().__init__(
            f"step {step} is being run by {owner}.",
            "Wait for it, or stop that process: its lease then expires by itself.",
        )
        self.step = step
        self.owner = owner


class LeaseLostError(StoreError):
    """Another driver took the step over before its result could be committed."""

    def __init__(self, step: str) -> None:
        super().__init__(
            f"step {step} was taken over by another driver before it could commit its files.",
            "Nothing is lost: the other driver's result is used. Run again if that one stopped too.",
        )
        self.step = step


class OutdatedManifestError(StoreError):
    """A result was committed by a version of the program that wrote manifests of another format."""

    def __init__(self, found: object, known: int) -> None:
        super().__init__(
            f"the manifest has format {found}, and this version reads {known}.",
            "Run the pipeline again: the step is made anew.",
        )


class CorruptResultError(StoreError):
    """Committed files are missing, or are not what was written. `problems` names each file."""

    def __init__(self, step: str, problems: tuple[str, ...]) -> None:
        super().__init__(
            f"the committed files of step {step} are damaged: {'; '.join(problems)}.",
            "Run the pipeline again: the step counts as not done and is made anew.",
        )
        self.step = step
        self.problems = problems


class AcceptError(ClusterError):
    """A result cannot be kept, because more than code and library versions differs."""


class MissingUpstreamError(ClusterError):
    """A step was chosen, but results that it needs are not committed."""

    def __init__(self, step: str, upstream: str) -> None:
        super().__init__(
            f"step {step} needs {upstream}, which is not committed and was left out of this run.",
            f"Run {upstream} first, or choose a wider part of the pipeline.",
        )
        self.step = step
        self.upstream = upstream


class StepFailedError(ClusterError):
    """A step's function raised, or its worker died.

    `error` is the exception in one line, `trace` its traceback, `log` the file with all that the step printed,
    `transient` whether another attempt may go better, `is_preemption` whether it was told to end and nothing was wrong with
    it, `attempt` the number of the attempt (from 1).
    """

    def __init__(
        self,
        step: str,
        error: str,
        *,
        remedy: str = "",
        trace: str = "",
        log: str = "",
        transient: bool = False,
        is_preemption: bool = False,
        attempt: int = 1,
    ) -> None:
        super().__init__(f"step {step} failed: {error}", remedy or (f"The log is {log}." if log else "Run it again."))
        self.step = step
        self.error = error
        self.trace = trace
        self.log = log
        self.transient = transient
        self.is_preemption = is_preemption
        self.attempt = attempt

    def tail(self, num_lines: int = 12) -> str:
        """The last lines of the traceback."""
        return "\n".join(self.trace.rstrip().splitlines()[-num_lines:])


class WorkersLostError(ClusterError):
    """Workers of a step ended before it did. `transient`: it may succeed when it is tried again."""

    transient = True

    def __init__(self, what: str) -> None:
        super().__init__(f"workers were lost ({what}).", "It goes on from its last checkpoint when it runs again.")


class PreemptedError(ClusterError):
    """The process of a step was told to leave, and what it did could not be kept. `is_preemption`: no failed attempt."""

    transient = True
    is_preemption = True

    def __init__(self) -> None:
        super().__init__(
            "its machine is being taken away (SIGTERM).", "It goes on from its last checkpoint when it runs again."
        )


class OffloadError(ClusterError):
    """Frozen weights cannot lie on a machine's disk: the folder, or what DeepSpeed needs to use it, is missing."""


class SessionError(ClusterError):
    """Ray cannot be started or reached, or lacks what a step asks for."""


class TrackingError(ClusterError):
    """MLflow cannot be used as asked."""


def _rebuild(kind: type[ClusterError], state: dict[str, Any]) -> ClusterError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["problem"], state["remedy"])
    error.__dict__.update(state)
    return error
