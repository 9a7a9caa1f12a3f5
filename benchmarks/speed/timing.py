"""How the tables are made: everything of a table in one run, in turns, medians of the turns."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RECIPES = Path(__file__).resolve().parents[2] / "pipelines" / "recipes"
SEED = 0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. `turns` of each measurement; a quick run has fewer turns and fewer texts."""

    turns: int
    quick: bool

    def of(self, num: int) -> int:
        """Texts to take where a full run takes `num`."""
        return max(4, num // 4) if self.quick else num


def in_turns(jobs: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of each job in each turn. A machine that is slow for a while is slow for all of them; one turn before
    the first goes untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(turns + 1):
        for name, job in jobs.items():
            begun = time.perf_counter()
            job()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over the turns of how many times longer the slow one took."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


def recipe(name: str = "demo") -> dict[str, Any]:
    """A recipe, whose models, texts and settings are measured."""
    import yaml

    found: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def film_texts(count: int) -> list[Any]:
    """`count` critics' quotes with their labels, drawn from the demo's pool."""
    import random

    from stages.common.data.config import Source
    from stages.common.data.sources import read_examples

    asked = recipe()
    pool = read_examples(Source(**asked["data"]["pool"]), asked["task"]["labels"])
    return random.Random(SEED).sample(pool, count)


def machine() -> str:
    """One line about where this runs."""
    import torch

    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs (load {os.getloadavg()[0]:.1f} before), "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {version('transformers')}, capability {torch.backends.cpu.get_cpu_capability()}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are set to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def peak_of(job: Callable[[], object]) -> int:
    """Highest resident size of this process while a job runs, bytes; on Linux."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    job()
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
