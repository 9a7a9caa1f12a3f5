"""The progress of a run: as text, and in the store, where `status` reads it in another process."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cluster.errors import StoreError
from cluster.run.events import Event, EventHandler, StepFailed, StepFinished, StepProgress
from cluster.store.base import Store
from cluster.store.garbage import ActiveRun, progress_of_runs

WRITE_EVERY_S = 5.0


class ProgressWriter:
    """Passes events on, and writes the progress of running steps to the store from its own thread.

    Args:
        run: The run.
        on_event: Called with each event.
    """

    def __init__(self, run: ActiveRun, on_event: EventHandler) -> None:
        self._run = run
        self._on_event = on_event
        self._progress: dict[str, dict[str, Any]] = {}
        self._is_changed = False
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="progress", daemon=True)

    def __enter__(self) -> ProgressWriter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        # A store that does not answer must not hold the end of the run up.
        self._thread.join(timeout=1.0)

    def __call__(self, event: Event) -> None:
        """Handles one event."""
        match event:
            case StepProgress(step=step, done=done, total=total, info=info):
                self._update(step, {"done": done, "total": total, "info": dict(info)})
            case StepFinished(step=step) | StepFailed(step=step):
                self._update(step, None)
        self._on_event(event)

    def _update(self, step: str, progress: dict[str, Any] | None) -> None:
        with self._lock:
            self._is_changed = True
            if progress is None:
                self._progress.pop(step, None)
            else:
                self._progress[step] = progress

    def _keep_writing(self) -> None:
        while not self._done.wait(WRITE_EVERY_S):
            with self._lock:
                is_changed, self._is_changed = self._is_changed, False
                data = json.dumps(self._progress).encode()
            if is_changed:
                with suppress(OSError, StoreError):  # the results matter, and report the same problem
                    self._run.write_progress(data)


def running_steps(store: Store) -> dict[str, str]:
    """Returns step -> progress as text, for the steps of all runs that go on now."""
    progress: dict[str, str] = {}
    for data in progress_of_runs(store):
        with suppress(ValueError, KeyError, TypeError):  # of another version
            progress |= {name: progress_text(**item) for name, item in json.loads(data).items()}
    return progress


def progress_text(done: int, total: int, info: Mapping[str, float | str]) -> str:
    """Returns the phase of a step with its progress, throughput and remaining time, as far as they are known.

    >>> progress_text(31, 100, {"phase": "training", "examples_per_s": 1234.5, "eta_s": 75.0})
    'training 31/100, 1,234/s, 1:15 left'
    """
    parts = [f"{info.get('phase', '')} {done}/{total}".strip()]
    if "examples_per_s" in info:
        parts.append(f"{float(info['examples_per_s']):,.0f}/s")
    if "eta_s" in info:
        parts.append(f"{clock(float(info['eta_s']))} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Returns a duration as `0:07`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
