"""Errors of the engine, each with its remedy, and which errors are transient: another attempt may succeed.

ClusterError
├── GraphError                the steps do not form a graph: a cycle, a duplicate name, a function without a module
├── FingerprintError          a value has no canonical form; the remedy names a type that has one
├── StoreError                the store cannot be used
│   ├── StoreUnreachableError its server failed in all attempts
│   ├── LeaseHeldError        another driver runs this step
│   ├── LeaseLostError        another driver took this step over; nothing was committed
│   ├── OutdatedManifestError a version with another manifest format committed the result
│   └── CorruptResultError    committed files are missing or changed
├── SourceChangedError        code or data changed while a step ran; nothing was committed
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

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class ClusterError(Exception):
    """Base class of all errors of the engine. `problem` says what is wrong, `remedy` what to do."""

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
    """A value has no canonical form, so changes of it could not be detected."""


class StoreError(ClusterError):
    """The store cannot be used."""


class StoreUnreachableError(StoreError):
    """The store's server failed in all attempts. `transient`: the step may be retried."""

    transient = True

    def __init__(self, url: str, action: str, reason: str) -> None:
        super().__init__(
            f"the store {url} is unreachable: {action} failed ({reason}).",
            "Run again when it answers: committed results are kept.",
        )


class LeaseHeldError(StoreError):
    """Another driver runs this step. `owner` names it."""

    def __init__(self, step: str, owner: str) -> None:
        super().__init__(
            f"step {step} is being run by {owner}.",
            "Wait for it, or stop that process: its lease then expires automatically.",
        )
        self.step = step
        self.owner = owner


class LeaseLostError(StoreError):
    """Another driver took the step over before its result could be committed."""

    def __init__(self, step: str) -> None:
        super().__init__(
            f"step {step} was taken over by another driver before it could commit its files.",
            "Nothing is lost: the result of the other driver is used. Run again if that driver stopped, too.",
        )
        self.step = step


class OutdatedManifestError(StoreError):
    """A version of the program with another manifest format committed a result."""

    def __init__(self, actual: object, supported: int) -> None:
        super().__init__(
            f"the manifest has format {actual}, but this version reads format {supported}.",
            "Run the pipeline again: the step reruns.",
        )


class CorruptResultError(StoreError):
    """Committed files are missing or changed. `problems` names each file."""

    def __init__(self, step: str, problems: tuple[str, ...]) -> None:
        super().__init__(
            f"the committed files of step {step} are damaged: {'; '.join(problems)}.",
            "Run the pipeline again: the step reruns.",
        )
        self.step = step
        self.problems = problems


class SourceChangedError(ClusterError):
    """A file of code or data was written while a step ran, so its result may not be that of its key.

    Args:
        path: The file.
        is_imported: This process may have imported the code before it was restored, so the step did not start.
    """

    def __init__(self, path: Path, *, is_imported: bool = False) -> None:
        if is_imported:
            super().__init__(
                f"{path} was written since this process started, which may have imported other code from it.",
                "Run the pipeline again in a new process, and edit no code while it runs.",
            )
            return
        super().__init__(
            f"{path} was written while the step ran, so the result was not committed.",
            "Run the pipeline again, and edit no code or data while a step reads it.",
        )


class AcceptError(ClusterError):
    """A result cannot be kept, because more than code and library versions differs."""


class MissingUpstreamError(ClusterError):
    """A step was selected, but a result that it needs is not committed."""

    def __init__(self, step: str, upstream: str) -> None:
        super().__init__(
            f"step {step} needs {upstream}, which is neither committed nor selected in this run.",
            f"Run {upstream} first, or select more of the pipeline.",
        )
        self.step = step
        self.upstream = upstream


class StepFailedError(ClusterError):
    """The function of a step raised an exception, or its worker died.

    Args:
        step: Name of the step.
        error: The exception in one line.
        remedy: What to do; default: read the log.
        trace: The traceback.
        log: Address of the file with all output of the step.
        transient: True if another attempt may succeed.
        is_preemption: True if the step was stopped and did not fail itself.
        attempt: Number of the attempt, from 1.
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
        """Returns the last lines of the traceback."""
        return "\n".join(self.trace.rstrip().splitlines()[-num_lines:])


class WorkersLostError(ClusterError):
    """Some workers of a step ended before the step did. `transient`: the step may be retried."""

    transient = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"workers were lost ({reason}).", "Run again: the step resumes from its last checkpoint.")


class PreemptedError(ClusterError):
    """The process of a step must exit before the step is complete. `is_preemption`: not a failed attempt."""

    transient = True
    is_preemption = True

    def __init__(self) -> None:
        super().__init__(
            "its machine is being preempted (SIGTERM).", "Run again: the step resumes from its last checkpoint."
        )


class OffloadError(ClusterError):
    """Frozen weights cannot be stored on a disk: the folder, or a tool that DeepSpeed needs, is missing."""


class SessionError(ClusterError):
    """Ray cannot be started or reached, or lacks the resources that a step requests."""


class TrackingError(ClusterError):
    """MLflow cannot be used as requested."""


def _rebuild(error_class: type[ClusterError], state: dict[str, Any]) -> ClusterError:
    error = error_class.__new__(error_class)
    Exception.__init__(error, state["problem"], state["remedy"])
    error.__dict__.update(state)
    return error


TRANSIENT_ERRNOS = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.EAGAIN, errno.EINTR,
}  # fmt: skip
# Classes are compared by name, so that no HTTP library is imported only to check an error.
TRANSIENT_CLASSES = {
    "httpx": {"TransportError"},
    "httpx2": {"TransportError"},
    "httpcore": {"NetworkError", "TimeoutException", "ProtocolError"},
    "httpcore2": {"NetworkError", "TimeoutException", "ProtocolError"},
    "requests": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "urllib3": {"ProtocolError", "TimeoutError", "NewConnectionError", "MaxRetryError"},
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
    "botocore": {"HTTPClientError", "ConnectionError"},
}
PACKAGES_WITH_RESPONSES = {"httpx", "httpx2", "huggingface_hub", "requests", "aiohttp"}
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


def is_transient(error: BaseException) -> bool:
    """Returns True for a lost connection or a busy server, not for invalid input or a full disk.

    An error with a `remedy` was raised by a stage on purpose; its cause is ignored.
    """
    return any(_is_transient_itself(link) for link in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = None if getattr(link, "remedy", "") else link.__cause__


def _is_transient_itself(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "transient", False) is True:
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    classes = [(base.__module__.partition(".")[0], base.__name__) for base in type(error).__mro__]
    if any(name in TRANSIENT_CLASSES.get(package, ()) for package, name in classes):
        return True
    if not any(package in PACKAGES_WITH_RESPONSES for package, _ in classes):
        return False
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status in TRANSIENT_STATUS
