"""Timing in turns, the data of the demo recipe, and Markdown tables for the speed benchmarks."""

from __future__ import annotations

import ctypes
import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from stages.common.data.config import Source
from stages.common.data.sources import iter_examples
from stages.common.examples import Example

RECIPES = Path(__file__).resolve().parents[2] / "pipelines" / "recipes"
SEED = 0


@dataclass(frozen=True, slots=True)
class Effort:
    """Number of `turns` of each measurement. A quick run also uses fewer examples."""

    turns: int
    quick: bool

    def reduce(self, count: int) -> int:
        """Returns the number of examples to use where a full run uses `count`."""
        return max(4, count // 16) if self.quick else count


def time_in_turns(jobs: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Returns the seconds of each job in each turn, after one turn that is not timed.

    A period in which the machine is slow affects all jobs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(turns + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Returns how many times longer the slow job took, as the median over the turns."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


def recipe(name: str = "demo") -> dict[str, Any]:
    """Returns the content of a recipe, whose models, data and settings the benchmarks use."""
    content: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def film_examples(count: int) -> list[Example]:
    """Draws `count` labeled quotes of critics from the pool of the demo."""
    demo = recipe()
    pool = list(iter_examples(Source(**demo["data"]["pool"]), demo["task"]["labels"]))
    return random.Random(SEED).sample(pool, count)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table. All columns but the first are right-aligned."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def peak_memory(job: Callable[[], object]) -> int:
    """Runs a job; returns the highest resident size of this process during the job, in bytes. Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    job()
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
