"""Frozen weights on a disk: the folder of one worker's parts, and the tools that DeepSpeed needs to use it.

DeepSpeed empties a folder when it starts to use it, and leaves its files there. Each model of each worker therefore has
its own folder. A lock, which the system releases however a process ends, shows whether a process still reads the
folder. The next process removes the folders of killed workers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import OffloadError

PREFIX = "clozeline-"
DYING_S = 30
"""How long killed workers may take to be gone."""
TOOLS = "Run: apt install libaio-dev g++; or take nvme_path out, and weights stay in memory."


class OffloadFolder:
    """A new folder under a place on a disk, this process's until `close`, which removes it."""

    def __init__(self, place: Path, checkpoint_dir: Path) -> None:
        """
        Args:
            place: A folder of this machine.
            checkpoint_dir: The folder of the step, which all of its workers share.

        Raises:
            SwapError: `place` is not there, or nothing can be written to it.
        """
        check_folder(place)
        with _alone_in(place):
            _remove_abandoned(place, PREFIX)
            self.path = Path(tempfile.mkdtemp(prefix=_prefix(checkpoint_dir), dir=place))
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Removes the folder with all that is in it."""
        shutil.rmtree(self.path)
        os.close(self._lock)


def remove_abandoned(place: Path, checkpoint_dir: Path) -> None:
    """Removes what a step's workers on this machine left when they were killed; those that still die are waited for."""
    over = time.monotonic() + DYING_S
    while place.is_dir():
        with _alone_in(place):
            held = _remove_abandoned(place, _prefix(checkpoint_dir))
        if not held or time.monotonic() > over:
            return
        time.sleep(0.1)


def check_folder(place: Path) -> None:
    """Refuses a place that cannot be used.

    Raises:
        SwapError: it is no folder of this machine, or nothing can be written there.
    """
    if not place.is_dir():
        raise OffloadError(
            f"{place}, where weights shall lie, is no folder on {os.uname().nodename}.",
            "Make it on a fast disk of every machine, or mend nvme_path.",
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise OffloadError(
            f"nothing can be written to {place}, where weights shall lie, on {os.uname().nodename}.",
            "Give it to the user who runs the steps, or mend nvme_path.",
        )


def check_aio_toolchain() -> None:
    """Looks for what DeepSpeed needs to build its op for disks, at its first use on a machine.

    Raises:
        SwapError: a C++ compiler or libaio.h is missing.
    """
    compiler = shlex.split(os.environ.get("CXX") or "c++")  # as torch chooses it
    if shutil.which(compiler[0]) is None:
        raise OffloadError(f"weights on a disk need a C++ compiler, and {os.uname().nodename} has none.", TOOLS)
    found = subprocess.run(
        [*compiler, "-E", "-x", "c++", "-"], input="#include <libaio.h>\n", text=True, capture_output=True, check=False
    )
    if found.returncode:
        raise OffloadError(f"weights on a disk need libaio.h, and {os.uname().nodename} has none.", TOOLS)


def _prefix(checkpoint_dir: Path) -> str:
    return f"{PREFIX}{hashlib.sha256(str(checkpoint_dir).encode()).hexdigest()[:8]}-"


def _remove_abandoned(place: Path, prefix: str) -> bool:
    """Whether folders are left that somebody holds. Those of other users are passed over."""
    is_held = False
    for folder in place.glob(f"{prefix}*"):
        with suppress(PermissionError, FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            except BlockingIOError:
                is_held = True
            finally:
                os.close(lock)
    return is_held


@contextmanager
def _alone_in(place: Path) -> Iterator[None]:
    """Between the making of a folder and its lock nobody may look."""
    lock = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
