"""Soft labels for piles of growing size, on one worker and on two: texts a second, and the memory of a worker.

    python benchmarks/cluster/shards.py [--sizes 5000 10000 20000] [--workers 1 2]

The ensemble is one sub-model of the recipe smoke, a pattern on a BERT-tiny with an adapter. The table is of whole
steps, the start of the workers included; the lines below it are of what more texts take. Memory is the highest resident
set of any process of its kind, sampled each 0.1 s: workers hold the models, the reader the next batches of a shard, the
writer is the step itself. Processes that ran another step before hold its libraries still.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {"worker": "ray::MapWorker", "reader": "ray::MapBatches", "writer": "ray::shards"}
"""What a process is for -> how Ray names it."""

SHARES = (0.31, 0.02, 0.17, 0.26, 0.24)
"""Shards of uneven size."""


@dataclass
class Peaks:
    """The highest resident set of each kind of process, in MiB."""

    found: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))

    def sample(self) -> None:
        """Looks at all processes below this one."""
        import psutil

        for process in psutil.Process().children(recursive=True):
            try:
                title, size = " ".join(process.cmdline()), process.memory_info().rss / 2**20
            except psutil.Error:  # it has ended since it was listed
                continue
            for kind, name in KINDS.items():
                if title.startswith(name):
                    self.found[kind] = max(self.found[kind], size)


@contextmanager
def peaks() -> Iterator[Peaks]:
    """Samples while the block runs."""
    found, stop = Peaks(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            found.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def write_pile(folder: Path, size: int) -> None:
    """`size` quotes in five shards; a quote may come twice."""
    from pipelines.run.request import load_request
    from stages.common.data.sources import read_examples

    source = load_request("smoke", [], folder).config.data.pool
    assert source is not None
    texts = [item.fields["text"] for item in read_examples(source, None)]
    random.Random(size).shuffle(texts)
    folder.mkdir(parents=True)
    ends = [round(size * sum(SHARES[: number + 1])) for number in range(len(SHARES))]
    for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        with (folder / f"part-{number}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": texts[row % len(texts)]}) + "\n" for row in range(first, end))


def labelled(root: Path, size: int, workers: int) -> tuple[float, Peaks]:
    """Seconds of the step, and its peaks. The members are trained once, with the first pile."""
    from cluster.run.result import RunOptions
    from cluster.run.scheduler import execute
    from pipelines.dag import fewshot
    from pipelines.run.request import load_request

    shards = f"shards={{source: {{asset: {root / str(size)}}}, workers: {workers}}}"
    asked = load_request("smoke", [shards, "pet.patterns=[review]"], root / "store")
    step = next(item for item in fewshot.build_steps(asked.config) if item.name == "shards")
    execute(step.inputs["members"], asked.store, RunOptions())  # type: ignore[arg-type]
    started = time.perf_counter()
    with peaks() as found:
        outcome = execute([step], asked.store, RunOptions())
    seconds = time.perf_counter() - started
    assert outcome.ok, outcome.errors
    asked.store.delete("shards", outcome.steps["shards"].fingerprint)  # for the next number of workers
    return seconds, found


def main() -> None:
    """Runs all sizes on each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 10_000, 20_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    from cluster.run.ray_session import session

    with tempfile.TemporaryDirectory() as folder, session(num_cpus=max(asked.workers)):
        root = Path(folder)
        for size in asked.sizes:
            write_pile(root / str(size), size)
        load = os.getloadavg()[0]
        print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs (load {load:.1f} before)\n")
        print("| workers | texts | seconds | texts/s | worker, MiB | reader, MiB | writer, MiB |")
        print("|--:|--:|--:|--:|--:|--:|--:|")
        spent: dict[tuple[int, int], float] = {}
        for size in asked.sizes:
            for workers in asked.workers:
                seconds, found = labelled(root, size, workers)
                spent[workers, size] = seconds
                sizes = " | ".join(f"{found.found[kind]:,.0f}" for kind in KINDS)
                print(f"| {workers} | {size:,} | {seconds:.1f} | {size / seconds:,.0f} | {sizes} |", flush=True)
        more = max(asked.sizes) - min(asked.sizes)
        for workers in asked.workers if more else ():
            rate = more / (spent[workers, max(asked.sizes)] - spent[workers, min(asked.sizes)])
            print(f"\n{workers} workers, without their init: {rate:,.0f} texts/s")


if __name__ == "__main__":
    main()
