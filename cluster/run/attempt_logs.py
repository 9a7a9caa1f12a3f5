"""Logs of attempts. A log is redacted and uploaded when its attempt ends, by its worker or by who comes after it.

A worker that is killed can do neither, and its driver may be killed together with it, or be on another machine. So the
worker notes its log in a file, and removes this file at the end. Each later attempt and each later run on this machine
reads the files that remain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import StoreError
from cluster.redaction import redact_file
from cluster.store.base import Store
from cluster.store.lease import Owner
from cluster.store.retries import budget

OPEN = ".open"
"""Folder with the notes, next to the folders of the steps' logs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptLog:
    """The log of one attempt, which has the lease of its step with `token`, in the process `worker`.

    Until it commits, the lease may have the token of its `rival`: see `TaskSpec`.
    """

    step: str
    fingerprint: str
    attempt: int
    token: str
    worker: Owner
    rival: str = ""

    @classmethod
    def read(cls, note: Path) -> AttemptLog:
        """Reads a note. Raises ValueError or TypeError for what is none, and FileNotFoundError."""
        fields = json.loads(note.read_text())
        return cls(**{**fields, "worker": Owner(**fields["worker"])})

    @contextmanager
    def open(self, store: Store) -> Iterator[Path]:
        """Yields the path of the log, which is redacted and uploaded at the end."""
        log, note = self.path(store), _folder(store) / self.token
        log.parent.mkdir(parents=True, exist_ok=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(asdict(self)))
        try:
            yield log
        finally:
            self.finish(store)

    def path(self, store: Store) -> Path:
        """Returns the path of the log on this machine."""
        return store.log_path(self.step, self.fingerprint, self.attempt)

    def is_over(self, store: Store) -> bool:
        """Returns True if the attempt writes no more: its process is gone, or another one has its lease.

        Raises:
            StoreError: the store is unreachable.
        """
        if self.worker.namespace == Owner.current().namespace:
            return self.worker.is_dead()
        lease = store.slot(self.step, self.fingerprint).read()
        return lease is None or lease.token not in (self.token, self.rival) or lease.owner.is_dead()

    def finish(self, store: Store) -> None:
        """Redacts and uploads the log. If that fails, its note remains."""
        with suppress(OSError, StoreError):
            self.redact(store)
            store.upload(self.path(store))
            (_folder(store) / self.token).unlink(missing_ok=True)

    def redact(self, store: Store) -> None:
        """Redacts the log, if it is on this machine."""
        with suppress(FileNotFoundError):
            redact_file(self.path(store))


def finish_log_of(token: str, store: Store) -> None:
    """Redacts and uploads the log of an attempt that is over, if its worker was on this machine."""
    with suppress(OSError, ValueError, TypeError):
        AttemptLog.read(_folder(store) / token).finish(store)


def finish_left_logs(store: Store) -> None:
    """Redacts and uploads the logs of all attempts that did not end by themselves."""
    with suppress(FileNotFoundError), budget(0):
        for note in list(_folder(store).iterdir()):
            with suppress(OSError, StoreError, ValueError, TypeError):
                log = AttemptLog.read(note)
                if log.is_over(store):
                    log.finish(store)


def _folder(store: Store) -> Path:
    return store.local / "logs" / OPEN
