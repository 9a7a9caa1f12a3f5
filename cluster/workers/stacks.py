"""Where each worker of a step stands when one of them hangs: written by itself, when nobody can reach it any more."""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import TextIO

EARLIER = 0.7
"""Share of the time-out after which a worker writes down where it stands, so that all have when it is over."""
SHOWN = 8
"""Innermost calls that are told of each worker."""


class Stack:
    """Writes the stacks of this process to a file, unless it hears every so often that all is well.

    Args:
        folder: Made if need be; the file is `<rank>.txt`.
        rank: Number of this worker.
        timeout_s: Seconds after which the others give it up.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = (folder / f"{rank}.txt").open("w", encoding="utf-8")
        self._patience_s = EARLIER * timeout_s
        self.is_well()

    def is_well(self) -> None:
        """Something was done; the clock begins anew."""
        faulthandler.dump_traceback_later(self._patience_s, file=self._file)

    def close(self) -> None:
        """Nothing is watched any more."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def written(folder: Path, function: str) -> str:
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
            calls = [line for line in mine.splitlines() if line.startswith("  File")][:SHOWN]
            found.append("\n".join([f"worker {path.stem} stands at", *calls]))
    return "\n".join(found)
