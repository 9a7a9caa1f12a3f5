"""One of two workers of a step, each on a machine of its own: `host_ranks.py RANK FOLDER STORE TOKEN END`.

Counts to three in a checkpoint, and ends as END says: it fails or gets a stop request after two, or writes its result.
Prints a line of JSON: the number with which it started, and the uploaded files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.errors import ClusterError
from cluster.parallel.host_link import StepFolder
from cluster.parallel.workplace import StepFiles, Workplace, host_workplace
from cluster.store.location import open_store
from tests.support.store_helpers import FINGERPRINT, STEP

LAST = 3


class StoppedError(ClusterError):
    """A stop of the step was requested."""

    is_preemption = True


def main(rank: int, folder: Path, store: str, token: str, end: str) -> None:
    """Runs the worker. FOLDER has the files of the process of the step."""
    dist.init_process_group("gloo", init_method=f"file://{folder / token}", rank=rank, world_size=2)
    files = StepFiles(out=folder / "out", checkpoint_dir=folder / "work", log=folder / "log")
    send = StepFolder(files.log, files.dumps, files.checkpoint_dir).receive
    host = open_store(store).host_files(STEP, FINGERPRINT, token)
    assert host is not None
    summary: dict[str, Any] = {}
    try:
        with host_workplace(host, send, is_first=True) as place:
            sys.stdout.write(f"worker {rank} works\n")
            summary["start"] = _count(place, rank, end)
            dist.barrier()
        summary["uploaded"] = sorted(place.uploaded)
    except ClusterError as error:
        summary["error"] = error.problem
    summary["left"] = host.out.exists()
    sys.stdout.write(json.dumps(summary) + "\n")
    dist.destroy_process_group()


def _count(place: Workplace, rank: int, end: str) -> int:
    """Counts from the checkpoint. Returns the number with which it started."""
    path = place.checkpoint_dir / "checkpoint.txt"
    start = int(path.read_text()) if path.exists() else 0
    dist.barrier()
    for number in range(start + 1, LAST + 1):
        if rank == 0:
            path.write_text(str(number))
        if number == LAST - 1 and end == "stop":
            raise StoppedError("a stop was requested.", "Run again.")
        if number == LAST - 1 and end == "fail" and rank == 0:
            raise ClusterError("it failed.", "Run again.")
    (place.out / "result.txt").write_text(f"{rank} counted to {LAST}")
    return start


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
