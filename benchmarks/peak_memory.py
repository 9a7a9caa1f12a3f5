"""The most memory that a command and all processes below it hold together, Ray's included; Linux.

    python benchmarks/peak_memory.py make pipeline

Proportional set sizes are added, in which a page that several processes share counts once; a sample each half second.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

EVERY_S = 0.5


def held(top: psutil.Process) -> int:
    """Bytes of a process and of all that descend from it."""
    total = 0
    for process in [top, *top.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended since it was listed
            continue
    return total


def main() -> int:
    """Runs the command of the arguments; returns its exit status."""
    running = subprocess.Popen(sys.argv[1:])
    top, most = psutil.Process(running.pid), 0
    while running.poll() is None:
        most = max(most, held(top))
        time.sleep(EVERY_S)
    print(f"peak of all processes together: {most / 2**30:.1f} GiB")
    return running.returncode


if __name__ == "__main__":
    sys.exit(main())
