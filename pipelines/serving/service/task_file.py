"""The file with the tasks of a service, so that a restart, and other processes that serve the same tasks, have them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from pipelines.serving.served_tasks import ServedTasks
from stages.common.errors import InputError

LOCK_TIMEOUT_S = 10
"""Seconds to wait while another process changes the tasks."""


class TaskFile:
    """Reads and writes `ServedTasks` as JSON. Readers see the old file or the new one."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: The file, which need not exist yet.

        Raises:
            InputError: its folder does not exist.
        """
        if not path.absolute().parent.is_dir():
            raise InputError(f"the folder of {path} does not exist.", "Create it.", key="--tasks")
        self.path = path.absolute()
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> ServedTasks | None:
        """Returns the tasks of the file, or None if there is no file.

        Raises:
            InputError: the file is not valid.
        """
        self._seen = self._version()
        try:
            return ServedTasks.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{first['msg']}.",
                "Correct the file, or remove it to start with the prompts of the command.",
                where=str(self.path),
                key=".".join(map(str, first["loc"])),
            ) from None

    def write(self, served: ServedTasks) -> None:
        """Replaces the file."""
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        new.write_text(served.model_dump_json(indent=2) + "\n", encoding="utf-8")
        new.replace(self.path)
        self._seen = self._version()

    def forget(self) -> None:
        """Makes `has_changed` true: what was read last is not served."""
        self._seen = None

    @property
    def has_changed(self) -> bool:
        """Returns True if another process has written the file since it was last read or written here."""
        version = self._version()
        return version is not None and version != self._seen

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from changing the tasks inside a `with` block.

        Raises:
            InputError: another process does not end its change.
        """
        try:
            with FileLock(f"{self.path}.lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout:
            raise InputError(
                f"another process has locked {self.path} for {LOCK_TIMEOUT_S} s.", "Try again, or end that process."
            ) from None

    def _version(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
