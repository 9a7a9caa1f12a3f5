"""Prompt tuning and sub-models that measure the memory of each worker, to compare it with the estimate."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.parallel.config import ALLOCATOR
from stages.pet import stage as pet
from stages.pet.config import PetConfig
from stages.prompt_tuning import stage as prompt_tuning
from tests.support.distributed_steps import Config, WatchedEngine, local_numbers

EVERY_S = 0.02
M_MMAP_THRESHOLD = -3
"""The parameter of glibc's mallopt."""


def return_freed_memory() -> None:
    """Does for this process what `ALLOCATOR` in its environment does for workers that gather weights."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, int(ALLOCATOR["MALLOC_MMAP_THRESHOLD_"]))


@dataclass(slots=True)
class Peak:
    """Bytes of this process that are not pages of a file: at first, and the maximum so far.

    The system can reclaim pages of files, such as libraries and memory-mapped weights, at any time.
    """

    first: int = 0
    maximum: int = 0

    def sample(self) -> None:
        """Takes one sample."""
        resident, of_files = (int(word) for word in Path("/proc/self/statm").read_text().split()[1:3])
        now = (resident - of_files) * os.sysconf("SC_PAGE_SIZE")
        self.first = self.first or now
        self.maximum = max(self.maximum, now)


@contextmanager
def measured() -> Iterator[Peak]:
    """Samples the memory of this process inside the block."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_S):
            peak.sample()

    peak.sample()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peak
    done.set()
    thread.join()
    peak.sample()


def run(config: Config, inputs: prompt_tuning.Inputs, out: Path, recorder: Any, engine: Any) -> prompt_tuning.Result:
    """Tunes a prompt. Writes to `memory.json` the bytes of each worker before and at the peak, and of its weights."""
    watched = WatchedEngine(engine, config)
    with _written(out, watched):
        return prompt_tuning.run(config, inputs, out, recorder, watched)


def run_submodel(config: PetConfig, inputs: pet.Inputs, out: Path, recorder: Any, engine: Any) -> pet.Result:
    """Trains a sub-model, and writes the same file."""
    watched = WatchedEngine(engine)
    with _written(out, watched):
        return pet.run(config, inputs, out, recorder, watched)


@contextmanager
def _written(out: Path, watched: WatchedEngine) -> Iterator[None]:
    """Measures the block, and writes `memory.json`."""
    started = time.monotonic()
    with measured() as peak:
        yield
    seconds = time.monotonic() - started
    kept, total = local_numbers(watched.model) if watched.model is not None else (0, 0)
    local = [peak.first, peak.maximum, kept]
    table = torch.zeros(watched.world_size, len(local), dtype=torch.float64)
    table[watched.rank] = torch.tensor(local, dtype=torch.float64)
    rows = watched.all_reduce_sum(table).tolist()
    names = ("before", "peak", "kept")
    workers = [dict(zip(names, map(int, row), strict=True)) for row in rows]
    (out / "memory.json").write_text(json.dumps({"workers": workers, "total": total, "seconds": seconds}))
