"""Where a worker of a step with several of them finds and leaves files.

If the store is a folder, all machines have it, so all workers use the folder of the process of the step. If it is at a
URL, each machine has a folder of its own: the workers of a machine fetch the last checkpoint, rank 0 copies its
checkpoints to the store and uploads its files, and `HostLink` reports the rest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.errors import StoreError
from cluster.parallel.host_link import HostLink, Send
from cluster.parallel.process_state import redirect_output
from cluster.parallel.worker_signals import StopRequest, answer_sigterm
from cluster.store.host_files import HostFiles
from cluster.store.manifest import FileEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFiles:
    """The files of the process of a step, on its machine.

    Args:
        out: Folder for the files of the result.
        checkpoint_dir: The checkpoint folder.
        log: The log.
    """

    out: Path
    checkpoint_dir: Path
    log: Path

    @property
    def dumps(self) -> Path:
        """Folder with a dump of each worker that hung."""
        return self.checkpoint_dir / "stacks"


@dataclass(slots=True)
class Workplace:
    """Where one worker reads and writes.

    Args:
        out: Folder for its files. Those of rank 0 are kept.
        checkpoint_dir: The checkpoint folder, which all workers of the machine share.
        dumps: Folder for the dump of its stack.
        uploaded: What rank 0 has uploaded, when the workplace is closed.
    """

    out: Path
    checkpoint_dir: Path
    dumps: Path
    uploaded: Mapping[str, FileEntry] = field(default_factory=dict)


@contextmanager
def shared_workplace(files: StepFiles, store: str) -> Iterator[Workplace]:
    """Uses the folder of the process of the step, which is below the folder of the store.

    Raises:
        StoreError: this machine does not have that folder.
    """
    if not files.checkpoint_dir.is_dir():
        raise StoreError(
            f"{os.uname().nodename} does not have the folder of the store {store}.",
            "Use a folder that all machines share, or a URL.",
        )
    with (
        tempfile.TemporaryDirectory() as unused,
        redirect_output(files.log),
        answer_sigterm(StopRequest(files.checkpoint_dir)),
    ):
        out = Path(unused) if dist.get_rank() else files.out
        yield Workplace(out, files.checkpoint_dir, files.dumps)


@contextmanager
def host_workplace(host: HostFiles, send: Send, *, is_first: bool) -> Iterator[Workplace]:
    """Uses folders of this machine. All workers enter it together, and leave it when all have ended their work.

    Args:
        host: The files of the workers of this machine.
        send: Sends reports to the process of the step.
        is_first: True for one worker of each machine, and for rank 0.
    """
    rank = dist.get_rank()
    _enter(host, is_first=is_first)
    stop_request = StopRequest(host.checkpoint_dir)
    with tempfile.TemporaryDirectory() as name:
        private = Path(name)
        with redirect_output(private / "log"), answer_sigterm(stop_request):
            place = Workplace(private if rank else host.out, host.checkpoint_dir, private)
            dump = private / f"{rank}.txt"
            with HostLink(send, rank, private / "log", dump, stop_request if is_first else None):
                try:
                    yield place
                    if rank == 0:
                        place.uploaded = host.upload()
                except BaseException as error:
                    host.save_checkpoint()
                    if getattr(error, "is_preemption", False):
                        dist.barrier()  # the first worker that exits ends rank 0
                    raise
    if is_first:
        host.remove()


def _enter(host: HostFiles, *, is_first: bool) -> None:
    """Creates the folders of every machine, with the same checkpoint on each, or with none."""
    is_lead = dist.get_rank() == 0
    start, checkpoint = _from_lead((os.urandom(8).hex(), host.latest_checkpoint()) if is_lead else None)
    host.open(start)
    is_complete = not is_first or host.create(checkpoint)
    if not all(_gather(is_complete)) and is_first:
        host.forget_checkpoint()
    if is_lead:
        host.keep_checkpoints()
    dist.barrier()


def _from_lead(value: Any) -> Any:
    """Returns the value of rank 0."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def _gather(value: bool) -> list[bool]:
    """Returns the values of all workers."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
