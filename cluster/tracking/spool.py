"""The file of a run with the records that wait for MLflow, and the position up to which MLflow has them.

Records are only appended, so a driver that is killed loses none of them, and a run without MLflow needs no memory for
them. The driver locks the file while it lives; the system releases the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cluster.store.files import remove

FOLDER = "outbox"
"""Folder of a store that has the folder of each run."""
RECORDS, POSITION = "records.jsonl", "position"
POSITION_DIGITS = 20


class Spool:
    """The records of one run, in order. One process has it open, which may append in one thread and read in another.

    Args:
        folder: Its folder.
        file: Its locked file.
    """

    def __init__(self, folder: Path, file: IO[bytes]) -> None:
        self.folder = folder
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._unwritten: list[bytes] = []
        """Lines that did not fit on the disk."""
        self._reader = (folder / RECORDS).open("rb")
        self._position_file = _open(folder / POSITION, os.O_CREAT)
        self._position = int(self._position_file.read(POSITION_DIGITS) or 0)
        self._next = self._position
        """Where the record after the one that `read` returned last begins."""

    @classmethod
    def create(cls, root: Path, header: Mapping[str, Any]) -> Spool:
        """Creates the spool of a new run below `root`. `header` is its first record."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        started_at = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
        # `waiting` orders by the name: a later run continues the steps of an earlier one, also of the same second.
        folder = root / f"{started_at}-{nanoseconds:09}-{os.urandom(8).hex()}"
        # Hidden from `waiting` until it is locked.
        hidden = folder.with_name(f".{folder.name}")
        hidden.mkdir(parents=True)
        file = _open(hidden / RECORDS, os.O_CREAT | os.O_APPEND)
        fcntl.flock(file, fcntl.LOCK_EX)
        hidden.rename(folder)
        spool = cls(folder, file)
        spool.append(header)
        return spool

    @classmethod
    def claim(cls, folder: Path) -> Spool | None:
        """Opens the spool of an earlier run; None if a process has it open, or it was sent in the meantime."""
        try:
            file = _open(folder / RECORDS, os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), (folder / RECORDS).stat()):
                return cls(folder, file)
        except (BlockingIOError, FileNotFoundError):  # another process sends the records, or has sent and removed them
            pass
        file.close()
        return None

    def append(self, record: Mapping[str, Any]) -> None:
        """Appends a record.

        Raises:
            OSError: the disk is full. The record is kept in memory, and written with the next one.
        """
        self._unwritten.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self.write()

    def write(self) -> None:
        """Writes the records that are in memory. Raises OSError if they do not fit on the disk."""
        while self._unwritten:
            try:
                data = memoryview(self._unwritten[0])
                while data:
                    data = data[os.write(self._file.fileno(), data) :]
            except OSError:
                # A reader never sees a part of a record.
                os.ftruncate(self._file.fileno(), self._size)
                raise
            self._size += len(self._unwritten.pop(0))

    def read(self) -> dict[str, Any] | None:
        """Returns the first record that is not acknowledged; None if there is none. Skips damaged lines."""
        self._next = self._position
        while True:
            self._reader.seek(self._next)
            line = self._reader.readline()
            if not line.endswith(b"\n"):  # the end, or what a killed driver was writing
                return None
            self._next += len(line)
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    return record

    def acknowledge(self) -> None:
        """Advances to the record after the one that `read` returned last."""
        self._position = self._next
        self._position_file.seek(0)
        self._position_file.write(str(self._position).zfill(POSITION_DIGITS).encode())

    def header(self) -> dict[str, Any]:
        """Returns the first record; empty if its driver was killed before it wrote one."""
        with (self.folder / RECORDS).open("rb") as file:
            line = file.readline()
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            return {}

    def num_left(self) -> int:
        """Returns the number of records that are not acknowledged."""
        with (self.folder / RECORDS).open("rb") as file:
            file.seek(self._position)
            return sum(line.endswith(b"\n") for line in file) + len(self._unwritten)

    def close(self) -> None:
        """Closes the files, so that another process may send what is left."""
        self._reader.close()
        self._position_file.close()
        self._file.close()

    def remove(self) -> None:
        """Removes the folder and closes the files."""
        remove(self.folder)
        self.close()


def waiting(root: Path) -> Iterator[Spool]:
    """Opens the spools below a folder that no process has open, oldest first. The caller closes them."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name[0] != "." and (spool := Spool.claim(folder)) is not None:
            yield spool


def _open(path: Path, flags: int) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | flags, 0o600)
    return os.fdopen(descriptor, "r+b", buffering=0)
