"""Keeps what a step changes in its process from the steps that the process runs later.

A worker runs many steps, because a new process takes seconds to import torch. So the environment, the current folder
and the settings of numerical libraries are as in a new process when a step starts.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def restored_process() -> Iterator[None]:
    """Restores environment, current folder and settings of torch after the block, and frees memory."""
    environment, folder = dict(os.environ), Path.cwd()
    dtype = sys.modules["torch"].get_default_dtype() if "torch" in sys.modules else None
    try:
        yield
    finally:
        _restore_torch(dtype)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
        with suppress(OSError):  # the folder was removed
            os.chdir(folder)


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
