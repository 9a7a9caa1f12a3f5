"""The wish that a step ends in good order: two files in its folder `work`, which all of its workers reach.

`.listens` is there while a training looks for the wish after every optimizer step; `.asked` is the wish. Files, since
the workers of a shared step are processes on other machines; their names begin with a dot, so that they go nowhere.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Wish:
    """One step's.

    Args:
        work: Its folder.
    """

    def __init__(self, work: Path) -> None:
        self._asked = work / ".asked"
        self._listens = work / ".listens"

    def clear(self) -> None:
        """Forgets what was wished of an attempt before."""
        self._asked.unlink(missing_ok=True)
        self._listens.unlink(missing_ok=True)

    def ask(self) -> bool:
        """Asks the step to end. Returns whether a training listens; nothing else will end by itself."""
        if not self._listens.exists():
            return False
        self._asked.touch()
        return True

    @contextmanager
    def listening(self) -> Iterator[Callable[[], bool]]:
        """Within it the step may be asked; see `stages.protocols.Engine`."""
        self._listens.touch()
        try:
            yield self._asked.exists
        finally:
            self._listens.unlink(missing_ok=True)


def ask_at_sigterm(work: str) -> None:
    """In the main thread of one of a step's many workers: SIGTERM asks them all to end; what does not listen ends."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if not Wish(Path(work)).ask() and callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)
