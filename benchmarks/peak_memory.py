"""Measures the peak memory of a command and all its child processes, including Ray's. Linux only.

    python benchmarks/peak_memory.py make pipeline

Adds up proportional set sizes, in which a page that several processes share counts once. Takes two samples per second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import psutil

INTERVAL_S = 0.5


def total_memory(parent: psutil.Process) -> int:
    """Returns the bytes used by a process and all its descendants."""
    total = 0
    for process in [parent, *parent.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # the process ended after it was listed
            continue
    return total


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command to run, with its arguments")
    process = subprocess.Popen(parser.parse_args().command)
    parent, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        peak = max(peak, total_memory(parent))
        time.sleep(INTERVAL_S)
    print(f"peak of all processes together: {peak / 2**30:.1f} GiB")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
