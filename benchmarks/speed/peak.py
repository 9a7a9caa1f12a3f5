"""Prints this machine and its peak: the speed of matrix products and of copies in memory.

    python benchmarks/speed/peak.py [--quick]

Fractions of the peak, as in the table `steps` of speed.py, refer to these products.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.machine import machine
from benchmarks.speed.timing import markdown_table, time_in_turns

SIDE = 2048
"""Rows and columns of the matrices whose product defines the peak."""

NUM_PRODUCTS = 4
PRODUCT_FLOPS = NUM_PRODUCTS * 2.0 * SIDE**3
"""FLOPs of one call of `matrix_products`."""

COPIED_MIB = 256
PRECISIONS = ("float32", "bfloat16")


def matrix_products(precision: str) -> Callable[[], None]:
    """Returns a job that multiplies two square matrices `NUM_PRODUCTS` times."""
    dtype = getattr(torch, precision)
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))

    def run() -> None:
        for _ in range(NUM_PRODUCTS):
            torch.matmul(left, right)

    return run


def memory_copy() -> Callable[[], None]:
    """Returns a job that copies `COPIED_MIB`, more than a cache holds."""
    source = torch.zeros(COPIED_MIB * 2**20, dtype=torch.uint8)
    target = torch.ones_like(source)

    def run() -> None:
        target.copy_(source)

    return run


def peak(turns: int) -> str:
    """Returns the table of the peak, and the ratio of each row to the first of its unit."""
    jobs = {precision: matrix_products(precision) for precision in PRECISIONS}
    seconds = {name: median(spent) for name, spent in time_in_turns({**jobs, "copy": memory_copy()}, turns).items()}
    rows = [
        [
            f"matmul {SIDE} x {SIDE}, {precision}",
            f"{PRODUCT_FLOPS / seconds[precision] / 1e9:.0f} GFLOP/s",
            f"{seconds[PRECISIONS[0]] / seconds[precision]:.1f}",
        ]
        for precision in PRECISIONS
    ]
    rows.append([f"copy of {COPIED_MIB} MiB", f"{COPIED_MIB * 2**20 / seconds['copy'] / 1e9:.1f} GB/s", ""])
    return markdown_table(["peak of the CPU", "measured", "ratio"], rows)


def main() -> None:
    """Prints the line and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure once, to try the benchmark")
    options = parser.parse_args()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    print(f"{machine()}, {torch.get_num_threads()} threads, capability {torch.backends.cpu.get_cpu_capability()}")
    print(f"GPUs: {', '.join(gpus) or 'none'}\n\n{peak(1 if options.quick else 5)}")


if __name__ == "__main__":
    main()
