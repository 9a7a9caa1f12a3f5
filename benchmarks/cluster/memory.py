"""Compares the memory of real workers with the plan, and shows which fraction of the weights each worker keeps.

    python benchmarks/cluster/memory.py [--quick]      --quick: only zero3 on two workers
    python benchmarks/cluster/memory.py --base         a Llama with almost no weights: the memory of a bare process

Tunes a prompt over a new Llama with 68 million float32 weights on the CPU. Samples every 20 ms the pages of each worker
that belong to no file, and shows the peak of the largest worker.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from cluster.run.ray_session import session
from cluster.steps.step import Strategy
from tests.support.memory_helpers import measure, write_case

ROOT = Path(__file__).resolve().parents[2]
CASES: tuple[tuple[Strategy, int], ...] = (("zero3", 2), ("ddp", 2), ("single", 1), ("zero3", 1), ("zero3", 4))
BASE_CASES: tuple[tuple[Strategy, int], ...] = (("single", 1), ("ddp", 2), ("zero3", 2))


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure only zero3 on two workers")
    parser.add_argument("--base", action="store_true", help="use a model with almost no weights")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder, session(num_cpus=4):
        print(f"{machine()}\n")
        write_case(Path(folder), *((1, 16) if options.base else ()))
        print(" strategy workers planned MiB  peak MiB   error    kept  seconds")
        for strategy, workers in CASES[:1] if options.quick else BASE_CASES if options.base else CASES:
            measured = measure(Path(folder), strategy, workers)
            planned, peak = measured.estimate.total / 2**20, max(measured.peaks) / 2**20
            kept = max(measured.kept) / max(measured.total, 1)
            print(
                f"{strategy:>9} {workers:>7} {planned:>11.0f} {peak:>9.0f} {planned / peak - 1:>+7.0%} {kept:>7.1%} "
                f"{measured.seconds:>8.1f}",
                flush=True,
            )
            print(f"{'':9} before {max(measured.before) / 2**20:.0f} MiB; planned: {measured.estimate}", flush=True)


if __name__ == "__main__":
    main()
