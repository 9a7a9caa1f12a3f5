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
EXIT_TIMEOUT_S = 30
"""Maximum number of seconds that killed workers need to exit."""
INSTALL_TOOLS = "Run: apt install libaio-dev g++. Or remove nvme_path to keep the weights in memory."


class OffloadFolder:
    """A new folder on a disk, which belongs to this process until `close` removes it."""

    def __init__(self, parent: Path, owner: str) -> None:
        """
        Args:
            parent: An existing folder of this machine.
            owner: A text that all workers of an attempt have, and no others.

        Raises:
            OffloadError: `parent` does not exist or is not writable.
        """
        check_folder(parent)
        with _locked(parent):
            _remove_abandoned(parent, PREFIX)
            self.path = Path(tempfile.mkdtemp(prefix=_prefix(owner), dir=parent))
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Removes the folder and its content."""
        shutil.rmtree(self.path)
        os.close(self._lock)


def remove_abandoned(parent: Path, owner: str) -> None:
    """Removes the folders of an attempt's killed workers on this machine. Waits for workers that are still exiting."""
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while parent.is_dir():
        with _locked(parent):
            is_in_use = _remove_abandoned(parent, _prefix(owner))
        if not is_in_use or time.monotonic() > deadline:
            return
        time.sleep(0.1)


def check_folder(parent: Path) -> None:
    """Checks that weights can be stored in a folder.

    Raises:
        OffloadError: it is not a folder of this machine, or it is not writable.
    """
    if not parent.is_dir():
        raise OffloadError(
            f"nvme_path {parent} is not a folder on {os.uname().nodename}.",
            "Create it on a fast disk of every machine, or correct nvme_path.",
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OffloadError(
            f"nvme_path {parent} is not writable on {os.uname().nodename}.",
            "Make the user who runs the steps its owner, or correct nvme_path.",
        )


def check_aio_toolchain() -> None:
    """Checks that DeepSpeed can build its op for disks, which it does at first use on a machine.

    Raises:
        OffloadError: a C++ compiler or libaio.h is missing.
    """
    compiler = shlex.split(os.environ.get("CXX") or "c++")  # as torch selects it
    if shutil.which(compiler[0]) is None:
        raise OffloadError(f"nvme_path needs a C++ compiler, but {os.uname().nodename} has none.", INSTALL_TOOLS)
    preprocessor = subprocess.run(
        [*compiler, "-E", "-x", "c++", "-"], input="#include <libaio.h>\n", text=True, capture_output=True, check=False
    )
    if preprocessor.returncode:
        raise OffloadError(f"nvme_path needs libaio.h, but {os.uname().nodename} does not have it.", INSTALL_TOOLS)


def _prefix(owner: str) -> str:
    return f"{PREFIX}{hashlib.sha256(owner.encode()).hexdigest()[:8]}-"


def _remove_abandoned(parent: Path, prefix: str) -> bool:
    """Removes folders that no process uses. Returns True if others remain. Skips folders of other users."""
    is_in_use = False
    for folder in parent.glob(f"{prefix}*"):
        with suppress(PermissionError, FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            except BlockingIOError:
                is_in_use = True
            finally:
                os.close(lock)
    return is_in_use


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Keeps other processes from removing a folder between its creation and its lock."""
    lock = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
