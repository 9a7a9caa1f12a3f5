"""Measures the peak memory of a command and all its child processes, including Ray's. Linux only, any Python.

    python benchmarks/peak_memory.py make pipeline

Adds up proportional set sizes, in which a page that several processes share counts once. Takes two samples per second.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

INTERVAL_S = 0.5


def total_memory(pid: int) -> int:
    """Returns the proportional set size of a process and of all its descendants, in bytes."""
    proc = Path(f"/proc/{pid}")
    try:
        children = " ".join(task.read_text() for task in proc.glob("task/*/children")).split()
        sizes = re.findall(r"^Pss:\s+(\d+) kB", (proc / "smaps_rollup").read_text(), re.M)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the process ended after it was listed
        return 0
    return 1024 * sum(map(int, sizes)) + sum(total_memory(int(child)) for child in children)


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command to run, with its arguments")
    process = subprocess.Popen(parser.parse_args().command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, total_memory(process.pid))
        time.sleep(INTERVAL_S)
    print(f"peak of all processes together: {peak / 2**30:.1f} GiB")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
