"""Readers and functions for the tests of streams."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.errors import GraphError

Batch = tuple[str, int]
Answer = tuple[str, int, int]
"""The batch and the id of the process that computed it."""


def read(source: tuple[str, int]) -> Iterator[Batch]:
    """Yields `n` batches of the source (name, n). The source `broken` raises an error after them."""
    name, count = source
    for number in range(count):
        yield name, number
    if name == "broken":
        raise GraphError("row 3 of broken is broken.", "Fix it.")


def make(folder: Path) -> Callable[[Batch], Answer]:
    """Returns the function and leaves a file per call. The batch `fatal` kills the process once."""
    (folder / f"built-{os.getpid()}-{len(list(folder.iterdir()))}").touch()

    def compute(batch: Batch) -> Answer:
        fault = folder / "fault"
        if batch[0] == "fatal" and not fault.exists():
            fault.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if batch[0] == "wrong":
            raise ValueError("this batch is wrong")
        return *batch, os.getpid()

    return compute


def make_failing() -> Callable[[Batch], Answer]:
    """Raises an error instead of returning a function."""
    raise GraphError("the model is missing.", "Download it.")
