"""Messages through files in a step's checkpoint folder: stop requests and dumps of hanging workers.

A stop request is two files. `.accepts_stop` exists while training checks for the request after every optimizer step;
`.stop_requested` is the request. Files are used because the workers of a distributed step are processes on several
machines. Their names start with a dot, so they are not copied with the checkpoints. Machines that do not share the
folder keep the two files equal (`cluster.parallel.host_link`).

A worker that hangs dumps its stack to a file by itself, because no other process can reach it then.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

DUMP_AT_FRACTION = 0.7
"""Fraction of the timeout after which a worker dumps its stack, so that all dumps exist when the timeout ends."""
MAX_DUMPED_CALLS = 8
"""Innermost calls that are reported per worker."""


class HangDumper:
    """Dumps the stacks of this process to a file unless the timer is reset often enough.

    Args:
        folder: Created if it does not exist; the file is `<rank>.txt`.
        rank: Rank of this worker.
        timeout_s: Seconds after which the other workers give it up.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (folder / f"{rank}.txt").open("w", encoding="utf-8")
        self._dump_after_s = DUMP_AT_FRACTION * timeout_s
        self.reset_timer()

    def reset_timer(self) -> None:
        """Restarts the timer, because the worker made progress."""
        faulthandler.dump_traceback_later(self._dump_after_s, file=self._file)

    def close(self) -> None:
        """Stops the timer."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def read_dumps(folder: Path, function: str) -> str:
    """Returns the innermost calls of every worker that dumped its stack; empty if no worker did.

    Args:
        folder: The folder of the dumps.
        function: Name of the function in whose thread a worker computes.
    """
    dumps = []
    for path in sorted(folder.glob("*.txt")):
        threads = path.read_text(encoding="utf-8").split("\n\n")
        # Use the last dump: a slow start may have written one, too.
        thread = next((item for item in reversed(threads) if f" in {function}\n" in f"{item}\n"), None)
        if thread is not None:
            calls = [line for line in thread.splitlines() if line.startswith("  File")][:MAX_DUMPED_CALLS]
            dumps.append("\n".join([f"worker {path.stem} hangs at", *calls]))
    return "\n".join(dumps)


class StopRequest:
    """The request that one step ends gracefully.

    Args:
        checkpoint_dir: The checkpoint folder of the step.
    """

    def __init__(self, checkpoint_dir: Path) -> None:
        self._requested = checkpoint_dir / ".stop_requested"
        self._accepted = checkpoint_dir / ".accepts_stop"

    def clear(self) -> None:
        """Removes the request of an earlier attempt."""
        self._requested.unlink(missing_ok=True)
        self._accepted.unlink(missing_ok=True)

    def send(self) -> bool:
        """Requests the step to end. Returns False if it does not check for requests, and so will not end by itself."""
        if not self.is_accepted:
            return False
        self.request()
        return True

    def request(self) -> None:
        """Requests the step to end, whether it checks for requests or not."""
        self._requested.touch()

    @property
    def is_accepted(self) -> bool:
        """True while the step checks for requests."""
        return self._accepted.exists()

    @is_accepted.setter
    def is_accepted(self, value: bool) -> None:
        if value:
            self._accepted.touch()
        else:
            self._accepted.unlink(missing_ok=True)

    @property
    def is_requested(self) -> bool:
        """True after a request."""
        return self._requested.exists()

    @contextmanager
    def graceful_stop(self) -> Iterator[Callable[[], bool]]:
        """Accepts requests inside the block. Yields a function that returns True after a request."""
        self.is_accepted = True
        try:
            yield self._requested.exists
        finally:
            self.is_accepted = False


_answering: list[StopRequest] = []
"""The request of the step that this worker runs, if it runs one."""


@contextmanager
def answer_sigterm(request: StopRequest) -> Iterator[None]:
    """Sends the request when this worker gets SIGTERM inside the block."""
    _answering.append(request)
    try:
        yield
    finally:
        _answering.remove(request)


def install_sigterm_handler() -> None:
    """Makes SIGTERM request all workers of a step to end. If the step does not accept it, the old handler runs.

    Called in the main thread of each worker, because stages run in other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    old_handler = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if not any(request.send() for request in _answering) and callable(old_handler):
            old_handler(number, frame)

    signal.signal(signal.SIGTERM, handle)
