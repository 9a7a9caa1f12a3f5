"""The process of a step: its output and its number of threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def redirect_output(log: Path) -> Iterator[None]:
    """Appends all output of this process to a file, including the output of C libraries and child processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            # If the disk is full, drop the output instead of failing the step.
            with suppress(OSError):
                stream.flush()
        for descriptor, original in enumerate(originals, 1):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(target)


def set_num_threads(cpus: float) -> None:
    """Sets the number of threads of numerical libraries.

    Sums in another order differ in their last digits, so a step uses the same number of threads on every machine.
    """
    num_threads = int(max(1, cpus))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    # A worker that ran another step has read the variables already.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
