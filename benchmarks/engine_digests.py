"""Measures how long `plan` takes with a local data file of 1 GB, and how much of the file it reads.

    python benchmarks/engine_digests.py [--quick] [GIGABYTES]

Each row is a separate process. The digest of a file is cached on disk by size, modification time and inode.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import machine
from pipelines.dag.fewshot import plan_recipe
from pipelines.run.request import load_request

LINE = b'{"text": "A film that is neither long nor short, and says what it has to say.", "category": "fresh"}\n'
ROWS = ("first", "second", "touched (same bytes, new time)", "again", "one more line", "again")


@dataclass(frozen=True, slots=True)
class PlanTime:
    """Seconds of one plan, the bytes that it read, and the fingerprint of the last step."""

    seconds: float
    bytes_read: int
    fingerprint: str


def measure_plan(data: Path, store: Path) -> PlanTime:
    """Plans the smoke recipe once in this process."""
    bytes_before, start = _bytes_read(), time.perf_counter()
    request = load_request("smoke", [f"data.pool.asset={data}"], store)
    planned_steps = plan_recipe(request.config, request.store)
    return PlanTime(time.perf_counter() - start, _bytes_read() - bytes_before, planned_steps[-1].fingerprint)


def print_table(gigabytes: float) -> None:
    """Writes the data file and prints one row per plan."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "pool.jsonl")
        block = LINE * 10_000
        with data.open("wb") as file:
            while file.tell() < gigabytes * 1e9:
                file.write(block)
        print(machine())
        print(f"data file: {data.stat().st_size / 1e9:.2f} GB\n")
        print(f"{'plan':<34}{'seconds':>9}{'GB read':>9}  fingerprint of the last step")
        for row in ROWS:
            if row.startswith("touched"):
                os.utime(data)
            elif row == "one more line":
                with data.open("ab") as file:
                    file.write(LINE)
            result = _measure_in_new_process(data, Path(folder))
            print(f"{row:<34}{result.seconds:>9.2f}{result.bytes_read / 1e9:>9.2f}  {result.fingerprint[:12]}")


def _measure_in_new_process(data: Path, folder: Path) -> PlanTime:
    command = [sys.executable, __file__, "--measure", str(data), str(folder / "store")]
    environment = {**os.environ, "CLOZELINE_CACHE": str(folder / "cache")}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return PlanTime(**json.loads(finished.stdout))


def _bytes_read() -> int:
    """Returns how many bytes this process has read so far, from disk or from the page cache."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def main() -> None:
    """Prints the table, or measures one row for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gigabytes", type=float, nargs="?", help="size of the data file (1; with --quick 0.01)")
    parser.add_argument("--quick", action="store_true", help="use a small file, to try the benchmark")
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("DATA", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(asdict(measure_plan(*options.measure))))
    else:
        print_table(options.gigabytes or (0.01 if options.quick else 1.0))


if __name__ == "__main__":
    main()
