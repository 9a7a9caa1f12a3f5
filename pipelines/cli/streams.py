"""What the process needs from its environment, standard streams and a home folder, and how a failure of the system is
reported.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

from stages.common.errors import InputError

STREAMS = ("stdin", "stdout", "stderr")
"""Standard streams, in the order of their file descriptors."""
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
"""Errors of a folder that does not exist or cannot be written."""


def prepare_environment() -> None:
    """Opens closed streams on the null device, and lets output streams write any text.

    Raises:
        InputError: standard output is closed, or there is no home folder.
    """
    closed = [name for name in STREAMS if getattr(sys, name) is None]
    for name in closed:
        number = STREAMS.index(name)
        _occupy(number)
        setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding lacks most characters
    if "stdout" in closed:
        raise InputError("standard output is closed.", "Redirect it: > FILE, or > /dev/null.")
    try:
        Path.home()
    except RuntimeError as error:
        raise InputError(
            "there is no home folder, in which models and settings are kept.", "Set one: HOME=/path/to/folder."
        ) from error


def _occupy(number: int) -> None:
    """Opens the null device at a file descriptor, so that no file gets it and receives what is printed."""
    try:
        os.fstat(number)
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)


def discard_output() -> None:
    """Discards what standard output still has to write. Without this, Python reports an error when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def system_error(error: OSError) -> InputError:
    """Returns an error of the system with a remedy."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.EMFILE:
        return InputError(f"too many files are open ({reason}).", "Raise the limit: ulimit -n 65536.")
    if error.filename is None:
        problem = f"the output cannot be written ({reason})." if error.errno else f"the system failed: {reason}."
        remedy = "Free space, or redirect the output to another file." if error.errno else "Try again, with --debug."
        return InputError(problem, remedy)
    problem = f"cannot use {error.filename} ({reason})."
    if error.errno in READ_ONLY:
        return InputError(
            problem,
            "Use folders that exist and that you can write: --store for results, --output for files, HOME or "
            "CLOZELINE_CACHE for models.",
        )
    return InputError(problem, "Free space there, or use another disk.")
