"""The process of a step: its output, its number of threads, and the state that it restores after the step.

A worker runs many steps, because a new process takes seconds to import torch. So the environment, the current folder
and the settings of numerical libraries are as in a new process when a step starts.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from threadpoolctl import threadpool_limits

_pools = {"num_threads": 0}
"""Number of threads of the numerical libraries that this process has loaded; 0: as they chose it."""


@contextmanager
def restored_process() -> Iterator[None]:
    """Restores environment, current folder and settings of torch after the block, ends threads, and frees memory."""
    environment, folder = dict(os.environ), Path.cwd()
    dtype = sys.modules["torch"].get_default_dtype() if "torch" in sys.modules else None
    try:
        yield
    finally:
        _restore_torch(dtype)
        _end_progress_bars()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        with suppress(OSError):  # the folder was removed
            os.chdir(folder)


@contextmanager
def redirect_output(log: Path) -> Iterator[None]:
    """Appends all output of this process to a file, including the output of C libraries and child processes.

    Only the owner of the file may read it, because secrets are redacted only when the step has ended.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(target, 0o600)
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

    Sums in another order differ in their last digits, so a step uses the same number of threads on every machine, and
    in a process that ran another step with another number of threads.
    """
    num_threads = int(max(1, cpus))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    # Libraries that are loaded already have read the variables.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
    if _pools["num_threads"] != num_threads:
        threadpool_limits(num_threads)
        _pools["num_threads"] = num_threads


def _end_progress_bars() -> None:
    """Ends the thread that tqdm starts with the first progress bar of a class; the next bar starts another one."""
    for thread in threading.enumerate():
        if thread.name == "tqdm_monitor" and hasattr(thread, "exit") and hasattr(thread, "tqdm_cls"):
            thread.exit()
            thread.tqdm_cls.monitor = None


def _restore_torch(dtype: object) -> None:
    """Restores settings and returns freed memory to the system: the C library keeps the memory of old models."""
    torch = sys.modules.get("torch")
    if torch is None:  # without a model it is not worth the milliseconds
        return
    torch.set_default_dtype(dtype or torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_grad_enabled(True)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # only glibc has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
