"""Messages through files in a step's checkpoint folder: stop requests and dumps of hanging workers.

A stop request is two files. `.accepts_stop` exists while a training checks for the request after every optimizer step;
`.stop_requested` is the request. Files are used because the workers of a distributed step are processes on several
machines. Their names start with a dot, so they are not copied with the checkpoints.

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
"""Share of the time-out after which a worker writes down where it stands, so that all have when it is over."""
MAX_DUMPED_CALLS = 8
"""Innermost calls that are told of each worker."""


class HangDumper:
    """Writes the stacks of this process to a file, unless it hears every so often that all is well.

    Args:
        folder: Made if need be; the file is `<rank>.txt`.
        rank: Number of this worker.
        timeout_s: Seconds after which the others give it up.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (folder / f"{rank}.txt").open("w", encoding="utf-8")
        self._patience_s = DUMP_AT_FRACTION * timeout_s
        self.reset_timer()

    def reset_timer(self) -> None:
        """Something was done; the clock begins anew."""
        faulthandler.dump_traceback_later(self._patience_s, file=self._file)

    def close(self) -> None:
        """Nothing is watched any more."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def read_dumps(folder: Path, function: str) -> str:
    """What the workers wrote, the innermost calls of each; empty if none did.

    Args:
        folder: That of their files.
        function: Name of the function in whose thread a worker computes.
    """
    found = []
    for path in sorted(folder.glob("*.txt")):
        threads = path.read_text(encoding="utf-8").split("\n\n")
        # the last of them: a start that took long was written down, too
        mine = next((thread for thread in reversed(threads) if f" in {function}\n" in f"{thread}\n"), None)
        if mine is not None:
            calls = [line for line in mine.splitlines() if line.startswith("  File")][:MAX_DUMPED_CALLS]
            found.append("\n".join([f"worker {path.stem} stands at", *calls]))
    return "\n".join(found)


class StopRequest:
    """One step's.

    Args:
        work: Its folder.
    """

    def __init__(self, checkpoint_dir: Path) -> None:
        self._asked = checkpoint_dir / ".asked"
        self._listens = checkpoint_dir / ".listens"

    def clear(self) -> None:
        """Forgets what was wished of an attempt before."""
        self._asked.unlink(missing_ok=True)
        self._listens.unlink(missing_ok=True)

    def send(self) -> bool:
        """Asks the step to end. Returns whether a training listens; nothing else will end by itself."""
        if not self._listens.exists():
            return False
        self._asked.touch()
        return True

    @contextmanager
    def graceful_stop(self) -> Iterator[Callable[[], bool]]:
        """Within it the step may be asked; see `stages.common.protocols.Engine`."""
        self._listens.touch()
        try:
            yield self._asked.exists
        finally:
            self._listens.unlink(missing_ok=True)


def install_sigterm_handler(checkpoint_dir: str) -> None:
    """In the main thread of one of a step's many workers: SIGTERM asks them all to end; what does not listen ends."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if not StopRequest(Path(checkpoint_dir)).send() and callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)
