"""Measures soft labels for growing numbers of examples on one and two workers: examples per second and memory.

    python benchmarks/cluster/shards.py [--quick] [--sizes 5000 10000 20000] [--workers 1 2]

The ensemble is one sub-model of the smoke recipe: one pattern on BERT-tiny with an adapter. The table shows whole
steps, including the start of the workers; the lines after it show the speed without the start. Ratios compare with the
first number of workers. Memory is the highest
resident set of any process of a kind, sampled every 0.1 s. Workers hold the models, the reader holds the next batches
of a shard, and the writer is the step itself. Processes that ran another step before still hold its libraries.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.machine import machine
from cluster.run.ray_session import session
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from pipelines.dag import fewshot
from pipelines.run.request import load_request
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.data.sources import iter_examples
from stages.common.engine import ENGINE

STEP = "soft_label_shards"
KINDS = {"worker": "ray::MapWorker", "reader": "ray::MapBatches", "writer": f"ray::{STEP}"}
"""Purpose of a process -> the name that Ray gives it."""

SHARD_FRACTIONS = (0.31, 0.02, 0.17, 0.26, 0.24)
"""Sizes of the shards, which are uneven."""


@dataclass
class Peaks:
    """The highest resident set of each kind of process, in MiB."""

    mib: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))

    def sample(self) -> None:
        """Measures all descendants of this process."""
        for process in psutil.Process().children(recursive=True):
            try:
                title, size = " ".join(process.cmdline()), process.memory_info().rss / 2**20
            except psutil.Error:  # the process ended after it was listed
                continue
            for kind, name in KINDS.items():
                if title.startswith(name):
                    self.mib[kind] = max(self.mib[kind], size)


@contextmanager
def sampled_peaks() -> Iterator[Peaks]:
    """Samples the peaks while the block runs."""
    peaks, stop = Peaks(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peaks.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def write_shards(folder: Path, size: int) -> None:
    """Writes `size` quotes in five shards; quotes may repeat."""
    data = load_request("smoke", [], folder).config.data
    assert data is not None
    assert data.pool is not None
    texts = [example.fields["text"] for example in iter_examples(data.pool, None)]
    random.Random(size).shuffle(texts)
    folder.mkdir(parents=True)
    ends = [round(size * sum(SHARD_FRACTIONS[: number + 1])) for number in range(len(SHARD_FRACTIONS))]
    for number, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        with (folder / f"part-{number}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": texts[row % len(texts)]}) + "\n" for row in range(first, end))


def label_shards(root: Path, size: int, workers: int) -> tuple[float, Peaks]:
    """Runs the step; returns its seconds and memory peaks. The members are trained only for the first size."""
    shards = f"unlabeled_shards={{source: {{asset: {root / str(size)}}}, workers: {workers}}}"
    request = load_request("smoke", [shards, "pet.patterns=[review]"], root / "store")
    step = next(step for step in fewshot.build_steps(request.config) if step.name == STEP)
    options = RunOptions(engine=ENGINE, identify=IDENTIFY, locate=LOCATE)
    execute(step.inputs["members"], request.store, options)  # type: ignore[arg-type]
    start = time.perf_counter()
    with sampled_peaks() as peaks:
        result = execute([step], request.store, options)
    seconds = time.perf_counter() - start
    assert result.ok, result.errors
    request.store.delete(STEP, result.steps[STEP].fingerprint)  # for the next number of workers
    return seconds, peaks


def main() -> None:
    """Runs all sizes on each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="label 200 examples, to try the benchmark")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of examples (5,000, 10,000 and 20,000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers")
    options = parser.parse_args()
    sizes = options.sizes or ((200,) if options.quick else (5_000, 10_000, 20_000))
    with tempfile.TemporaryDirectory() as folder, session(num_cpus=max(options.workers)):
        root = Path(folder)
        for size in sizes:
            write_shards(root / str(size), size)
        print(f"{machine()}\n")
        print("| workers | examples | seconds | examples/s | ratio | worker, MiB | reader, MiB | writer, MiB |")
        print("|--:|--:|--:|--:|--:|--:|--:|--:|")
        spent: dict[tuple[int, int], float] = {}
        for size in sizes:
            for workers in options.workers:
                seconds, peaks = label_shards(root, size, workers)
                spent[workers, size] = seconds
                speed = f"{size / seconds:,.0f} | {spent[options.workers[0], size] / seconds:.2f}"
                memory = " | ".join(f"{peaks.mib[kind]:,.0f}" for kind in KINDS)
                print(f"| {workers} | {size:,} | {seconds:.1f} | {speed} | {memory} |", flush=True)
        smallest, largest = min(sizes), max(sizes)
        if largest == smallest:
            return
        without_start = {workers: spent[workers, largest] - spent[workers, smallest] for workers in options.workers}
        for workers, seconds in without_start.items():
            ratio = without_start[options.workers[0]] / seconds
            rate = (largest - smallest) / seconds
            print(f"\n{workers} workers, without their start: {rate:,.0f} examples/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
