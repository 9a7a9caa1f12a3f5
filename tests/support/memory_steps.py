"""Prompt tuning that tells how much memory each of its workers took: for what compares the planner with the truth."""

from __future__ import annotations

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

from stages.prompt_tuning import stage as prompt_tuning
from stages.prompt_tuning.config import PromptTuningConfig
from tests.support.distributed_steps import Watched, local_numbers

EVERY_S = 0.02


class Config(PromptTuningConfig, frozen=True):
    """That of the stage; `shared_steps.Watched` looks for these, too."""

    fault: str = ""
    at: int = 0


@dataclass(slots=True)
class Peak:
    """Bytes of this process that are of no file: at first, and the highest so far.

    Pages of files, those of libraries and of weights being read, go back to the system whenever it wants them.
    """

    first: int = 0
    highest: int = 0

    def look(self) -> None:
        """One sample."""
        resident, of_files = (int(word) for word in Path("/proc/self/statm").read_text().split()[1:3])
        now = (resident - of_files) * os.sysconf("SC_PAGE_SIZE")
        self.first = self.first or now
        self.highest = max(self.highest, now)


@contextmanager
def watched() -> Iterator[Peak]:
    """The highest that this process takes in the context."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            peak.look()

    peak.look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peak
    over.set()
    thread.join()
    peak.look()


def run(config: Config, inputs: prompt_tuning.Inputs, out: Path, recorder: Any, engine: Any) -> prompt_tuning.Result:
    """The stage, and beside its files `memory.json`: bytes of each worker before, at the peak, and of its weights."""
    eye = Watched(engine, config)
    begun = time.monotonic()
    with watched() as peak:
        result = prompt_tuning.run(config, inputs, out, recorder, eye)
    seconds = time.monotonic() - begun
    kept, whole = local_numbers(eye.model) if eye.model is not None else (0, 0)
    mine = [peak.first, peak.highest, kept]
    table = torch.zeros(engine.world_size, len(mine), dtype=torch.float64)
    table[engine.rank] = torch.tensor(mine, dtype=torch.float64)
    rows = engine.all_reduce_sum(table).tolist()
    names = ("before", "peak", "kept")
    workers = [dict(zip(names, map(int, row), strict=True)) for row in rows]
    (out / "memory.json").write_text(json.dumps({"workers": workers, "whole": whole, "seconds": seconds}))
    return result
