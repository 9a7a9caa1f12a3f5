"""Connects workers on machines that share no folder with the process of their step.

That process reads messages in its own folder (`cluster.parallel.worker_signals`), and its output is one log. So a
worker reports every second what it printed, a dump of its stack, and whether it accepts a stop request, to an actor on
the machine of the process, which writes it there. The answer is the state of the stop request in that folder.

A report that does not arrive is repeated, and the output of a worker is written once. What a worker printed in its last
second is lost if it is killed, as is its dump if it hangs and keeps Python's lock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cluster.parallel.worker_signals import StopRequest

REPORT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What happened in a worker since its last report.

    Args:
        worker: A name that no other worker has.
        rank: Its rank.
        position: Number of bytes that it printed before `output`.
        output: What it printed since then.
        dump: Its dump, if it dumped its stack.
        is_stop_requested: True if a stop was requested on its machine.
        is_stop_accepted: True if the step checks for stop requests; None if another worker knows.
    """

    worker: str
    rank: int
    position: int
    output: bytes
    dump: str
    is_stop_requested: bool
    is_stop_accepted: bool | None


@dataclass(frozen=True, slots=True)
class StopState:
    """Whether the step checks for stop requests, and whether it was requested to stop."""

    is_accepted: bool
    is_requested: bool


Send = Callable[[Report], StopState | None]
"""Sends a report. Returns None if it may not have arrived."""


class StepFolder:
    """An actor that writes reports to the folder of the process of a step.

    Args:
        log: The log of the step.
        dumps: The folder for dumps.
        checkpoint_dir: The checkpoint folder of the process of the step.
    """

    def __init__(self, log: Path, dumps: Path, checkpoint_dir: Path) -> None:
        self._log = log
        self._dumps = dumps
        self._stop_request = StopRequest(checkpoint_dir)
        self._positions: dict[str, int] = {}
        """Worker -> number of bytes of its output that are in the log."""

    def receive(self, report: Report) -> StopState:
        """Writes what a report adds. The same report may arrive twice."""
        self._append(report)
        if report.dump:
            self._dumps.mkdir(exist_ok=True)
            (self._dumps / f"{report.rank}.txt").write_text(report.dump, encoding="utf-8")
        if report.is_stop_accepted is not None:
            self._stop_request.is_accepted = report.is_stop_accepted
        if report.is_stop_requested:
            self._stop_request.request()
        return StopState(self._stop_request.is_accepted, self._stop_request.is_requested)

    def _append(self, report: Report) -> None:
        known = self._positions.get(report.worker, 0)
        output = report.output[max(0, known - report.position) :]
        if not output:
            return
        with self._log.open("ab") as file:
            file.write(output)
        self._positions[report.worker] = report.position + len(report.output)


class HostLink:
    """Reports what happens in this worker, in a thread. Use as a context manager.

    Args:
        send: Sends a report to the actor.
        rank: Rank of this worker.
        log: The file with its output. The link removes its name, so the output does not stay if the worker is killed.
        dump: The file of its dump, which need not exist.
        stop_request: That of this machine; None: another worker of the machine takes care of it.
    """

    def __init__(self, send: Send, rank: int, log: Path, dump: Path, stop_request: StopRequest | None) -> None:
        self._send = send
        self._rank = rank
        self._worker = os.urandom(8).hex()
        self._output = log.open("rb")
        log.unlink()
        self._dump = dump
        self._sent_dump = ""
        self._stop_request = stop_request
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_reporting, name="host link", daemon=True)

    def __enter__(self) -> HostLink:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        self.report()
        self.close()

    def close(self) -> None:
        """Releases the output, without a last report."""
        self._output.close()

    def report(self) -> bool:
        """Sends a report, and makes the stop request of this machine that of the step. Returns False if it failed."""
        position = self._output.tell()
        output, dump = self._output.read(), self._read_dump()
        stop = self._stop_request
        answer = self._send(
            Report(
                worker=self._worker,
                rank=self._rank,
                position=position,
                output=output,
                dump=dump if dump != self._sent_dump else "",
                is_stop_requested=stop is not None and stop.is_requested,
                is_stop_accepted=stop.is_accepted if stop is not None and self._rank == 0 else None,
            )
        )
        if answer is None:
            self._output.seek(position)
            return False
        self._sent_dump = dump
        if stop is not None:
            if self._rank:
                stop.is_accepted = answer.is_accepted
            if answer.is_requested:
                stop.request()
        return True

    def _read_dump(self) -> str:
        with suppress(FileNotFoundError):
            return self._dump.read_text(encoding="utf-8")
        return ""

    def _keep_reporting(self) -> None:
        while not self._done.wait(REPORT_EVERY_S):
            self.report()
