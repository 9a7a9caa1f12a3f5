"""The command `clozeline` in a process of its own, with a clock that a file moves."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from unittest import mock

from cluster.store.lease import Leases
from pipelines.cli import app
from pipelines.run import runner

CLOCK = "SOAK_CLOCK"
"""Variable with the path of a file with the seconds by which all clocks are moved."""


def offset_s() -> float:
    """Returns the seconds in the file; 0 while it is being written."""
    try:
        return float(Path(os.environ[CLOCK]).read_text())
    except (FileNotFoundError, ValueError):
        return 0.0


def main() -> None:
    """Runs the command whose words are the arguments of this process."""
    monotonic, wall = time.monotonic, time.time
    leases = partial(Leases, clock=lambda: monotonic() + offset_s())
    time.time = lambda: wall() + offset_s()
    with mock.patch.object(runner, "Leases", leases):
        app.main()


if __name__ == "__main__":
    main()
