"""Writes the events of a run as JSON, one object per line. See docs/reference/events.md."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, TextIO

from cluster.redaction import redact_values
from cluster.run.events import Event, StepFailed, StepProgress
from cluster.run.result import RunResult

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class JsonEvents:
    """Writes events. Use it as a context manager around the run, and call it with each event."""

    def __init__(self, stream: TextIO, num_steps: int) -> None:
        """
        Args:
            stream: The output.
            num_steps: Steps that will be executed.
        """
        self._stream = stream
        self._num_steps = num_steps

    def __enter__(self) -> JsonEvents:
        write_event(self._stream, "run_started", steps=self._num_steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes nothing: `write_finished` and `write_failed` write the last line."""

    def __call__(self, event: Event) -> None:
        """Writes an event under the name of its class: `StepStarted` becomes `step_started`."""
        write_event(self._stream, _WORD.sub("_", type(event).__name__).lower(), **_fields(event))


def write_finished(stream: TextIO, result: RunResult, exit_code: int) -> None:
    """Writes the last line of a run: step names by status, the number of attempts, and the exit status."""
    names = ("executed", "cached", "failed", "blocked", "stopped")
    by_status = {name: list(getattr(result, name)) for name in names}
    numbers = {"attempts": result.num_attempts, "seconds": round(result.wall_s, 2), "exit_code": exit_code}
    write_event(stream, "run_finished", **by_status, **numbers)


def write_failed(stream: TextIO, error: Exception, exit_code: int) -> None:
    """Writes the last line if the run could not start: the error and its remedy."""
    write_event(stream, "error", error=str(error), remedy=getattr(error, "remedy", ""), exit_code=exit_code)


def write_event(stream: TextIO, event: str, **fields: Any) -> None:
    """Writes and flushes one line. Secrets in URLs are replaced, and NaN and infinity become null."""
    line = {"time": round(time.time(), 3), "event": event, **redact_values(_plain(fields))}
    stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    stream.flush()


def _fields(event: Event) -> dict[str, Any]:
    match event:
        case StepProgress(step=step, done=done, total=total, info=info):
            return {"step": step, "done": done, "total": total, **info}
        case StepFailed(step=step, error=error, retry_in_s=pause):
            details = {name: getattr(error, name) for name in ("error", "remedy", "log", "attempt")}
            return {"step": step, **details, "retry_in_s": pause}
        case _:
            return asdict(event)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
