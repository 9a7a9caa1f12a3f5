"""A process that sends the records of runs that have ended to MLflow, in the background.

    python -m cluster.tracking.sender STORE

What it cannot send stays in the outbox of the store, for `clozeline sync` or the next run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.tracking.sync import send_waiting

ROOT = str(Path(__file__).parents[2])
IN_BACKGROUND = ("sh", "-c", '"$@" &', "sh")
"""The shell ends at once, so the process is not a child of this one, which need not wait for it."""


def start(store: Path) -> None:
    """Starts the process, which continues when this one ends.

    Raises:
        OSError: the system starts no more processes.
    """
    others = [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item and item != ROOT]
    subprocess.run(
        [*IN_BACKGROUND, sys.executable, "-m", "cluster.tracking.sender", str(store.absolute())],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *others])},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, check=True,
    )  # fmt: skip


def main() -> None:
    for _ in send_waiting(Path(sys.argv[1]), lambda problem: None):
        pass


if __name__ == "__main__":
    main()
