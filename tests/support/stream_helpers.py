"""Readers and functions for the tests of streams."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.errors import GraphError

Batch = tuple[str, int]
Answer = tuple[str, int, int]


def read(source: tuple[str, int]) -> Iterator[Batch]:
    """(name, n) -> n batches; a source named `broken` breaks behind them."""
    name, count = source
    for number in range(count):
        yield name, number
    if name == "broken":
        raise GraphError("row 3 of broken is broken.", "Mend it.")


def make(folder: Path) -> Callable[[Batch], Answer]:
    """Answers with the process; leaves a file a call of `make`. The batch `fatal` kills the process, once."""
    (folder / f"made-{os.getpid()}-{len(list(folder.iterdir()))}").touch()

    def answer(batch: Batch) -> Answer:
        fault = folder / "fault"
        if batch[0] == "fatal" and not fault.exists():
            fault.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if batch[0] == "wrong":
            raise ValueError("this batch is wrong")
        return *batch, os.getpid()

    return answer


def bad() -> Callable[[Batch], Answer]:
    """Cannot be made."""
    raise GraphError("the model is missing.", "Fetch it.")
