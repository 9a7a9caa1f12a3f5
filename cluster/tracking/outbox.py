"""Keeps what a run records for MLflow in a file, which one background thread sends in order.

No step waits for a server or fails with it: runs have an id of this process, which is a tag on the server. If the
server is down, slow or full, records wait in the file, also after the end of the run; `sync` or the next run with the
same store sends them.
"""

from __future__ import annotations

import base64
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.redaction import redact
from cluster.tracking import sender
from cluster.tracking.delivery import Delivery, UnavailableError
from cluster.tracking.server import Destination
from cluster.tracking.spool import FOLDER, Spool
from cluster.tracking.sync import send_waiting

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PAUSE_S, MAX_PAUSE_S = 0.5, 15.0
"""Before the next attempt at a server that is away."""
ID_WITHIN_S = 5.0
"""How long the id of a run on the server is awaited."""
MAX_SHARE, MAX_LAG_S = 0.1, 60.0
"""The share of time in which the thread uses this machine, which steps and the scheduler need as well; and for how
long records may wait for that reason. After that the thread sends without pauses until the server has everything, as at
the end of a run.
"""
DELIVER_WITHIN_S, DELIVER_WITHIN_IF_DOWN_S = 30.0, 3.0
"""At the end of a run: leave the rest for later if no record was sent for this long."""
DELIVER_WITHIN_IF_STOPPED_S = 5.0
"""At the end of a run that the user stopped: leave the rest for later after this time."""


class Outbox:
    """The records of one run of a pipeline. First sends what earlier runs have left for the same server.

    Args:
        destination: The server.
        client: Client of the server; None: a process of its own sends the records after `close`.
    """

    def __init__(self, destination: Destination, client: MlflowClient | None) -> None:
        self._destination = destination
        self._address = redact(destination.address)
        self._spool = Spool.create(destination.store / FOLDER, {"kind": "open", **destination.record()})
        self._own = Delivery(self._spool, destination, self._report, is_own=True, client=client)
        # A database uses the CPU and the disk of this machine, a server only the CPU.
        self._clock = time.thread_time if destination.database is None else time.monotonic
        self._calls: dict[str, Callable[[str], None]] = {}
        """Run -> what to call when the server has it."""
        self._num_left = 0
        self._problems: dict[str, bool] = {}
        """Problem -> whether `new_problems` has returned it."""
        self._is_down = self._is_closed = self._is_draining = self._is_urgent = False
        self._progress_at_s = self._lags_since_s = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._keep_sending, name="outbox", daemon=True)
        self._is_sent_later = client is None
        if not self._is_sent_later:
            self._thread.start()

    @property
    def experiment_id(self) -> str:
        """The id of the experiment on the server; empty if the server has not answered yet."""
        return self._own.experiment_id

    def create_run(
        self, tags: Mapping[str, str], name: str, parent: str = "", *, run: str = "", resumes: bool = False
    ) -> str:
        """Creates a run.

        Args:
            tags: Its tags.
            name: Its name.
            parent: The run below which it is shown.
            run: Its id, from `new_run_id`; default: a new one.
            resumes: Continue the latest run of the step, if that failed or was killed, instead.

        Returns:
            Its id, which all methods accept.
        """
        run = run or new_run_id()
        self.add("create", run, tags=dict(tags), name=name, parent=parent, resumes=resumes, at_ms=now_ms())
        return run

    def add_file(self, run: str, path: str, data: bytes, *, kind: str = "file") -> None:
        """Adds a file; `path` is relative to the artifacts of the run."""
        self.add(kind, run, path=path, data=base64.b64encode(data).decode())

    def add(self, kind: str, run: str, **fields: Any) -> None:
        """Adds a record; `RunWriter` writes it."""
        with self._changed:
            if not self._num_left:
                self._lags_since_s = time.monotonic()
            self._num_left += 1
            try:
                self._spool.append({"kind": kind, "run": run, **fields})
            except OSError as error:
                self._report(
                    f"the records for MLflow cannot be written to {self._spool.folder} ({error.strerror}). "
                    "They are in memory until the disk has space."
                )
            self._changed.notify_all()

    def server_id(self, run: str, within_s: float = ID_WITHIN_S) -> str | None:
        """Returns the id of a run on the server; None if the server does not create it in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._own.known_id(run) is not None or self._is_down, timeout=within_s)
            return self._own.known_id(run) or None

    def call_with_id(self, run: str, call: Callable[[str], None]) -> None:
        """Calls a function with the id of a run on the server, in the background, when the next records are sent."""
        with self._changed:
            self._calls[run] = call

    @property
    def num_waiting(self) -> int:
        """The number of records that are not sent."""
        return self._num_left

    def new_problems(self) -> list[str]:
        """Returns what went wrong since the last call; each problem once."""
        with self._changed:
            new = [problem for problem, is_returned in self._problems.items() if not is_returned]
            self._problems |= dict.fromkeys(new, True)
        return new

    def drain(self, within_s: float = math.inf) -> bool:
        """Waits until all records are sent. Returns False if the server makes no progress, or after `within_s`."""
        with self._changed:
            self._progress_at_s = time.monotonic()
            end_at_s = self._progress_at_s + within_s
            self._is_draining = self._is_urgent = True
            self._changed.notify_all()
            while self._num_left:
                patience_s = DELIVER_WITHIN_IF_DOWN_S if self._is_down else DELIVER_WITHIN_S
                left_s = min(self._progress_at_s + patience_s, end_at_s) - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, DELIVER_WITHIN_IF_DOWN_S))
            self._is_draining = False
            return not self._num_left

    def close(self, within_s: float = math.inf) -> None:
        """Sends what is left, and ends the thread. What is not sent in time stays in the file, which is reported."""
        if self._is_sent_later:
            self._send_later()
            return
        is_empty = self.drain(within_s)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if is_empty:
            self._thread.join()
            self._spool.remove()
            return
        with self._changed:
            self._report(
                f"{self._num_left} records of this run wait for MLflow at {self._address}. "
                "`clozeline sync` or the next run sends them."
            )
        # The thread may wait for a server for a while, and ends at its next look.
        self._thread.join(timeout=1.0)
        self._spool.close()

    def _send_later(self) -> None:
        self._is_closed = True
        self._spool.close()
        try:
            sender.start(self._destination.store)
        except OSError as error:
            self._report(f"no process was started that sends the records to MLflow ({error.strerror}).")

    def _report(self, problem: str) -> None:
        self._problems.setdefault(problem, False)

    def _keep_sending(self) -> None:
        """Sends what earlier runs have left, then the records of this run as they come."""
        pause_s = 0.0
        has_cleaned_up = False
        while self._wait(pause_s):
            start_s = self._clock()
            try:
                if not has_cleaned_up:
                    self._clean_up()
                    has_cleaned_up = True
                with self._changed:
                    self._spool.write()
                self._own.send_next()
                self._call_back()
            except Exception as error:  # of a server, or of the disk with the file
                pause_s = min(max(2 * pause_s, PAUSE_S), MAX_PAUSE_S)
                self._went_down(str(error))
            else:
                pause_s = 0.0
                self._sent()
                self._make_room(self._clock() - start_s)

    def _make_room(self, used_s: float) -> None:
        """Pauses after a record for which this machine worked for `used_s`, unless someone waits for the records."""
        with self._changed:
            if time.monotonic() < self._lags_since_s + MAX_LAG_S:
                pause_s = used_s * (1 / MAX_SHARE - 1)
                self._changed.wait_for(lambda: self._is_draining or self._is_closed, timeout=pause_s)

    def _call_back(self) -> None:
        """Makes the calls of `call_with_id` for runs that the server has."""
        with self._changed:
            known = {run: run_id for run in self._calls if (run_id := self._own.known_id(run))}
            calls = [partial(self._calls.pop(run), run_id) for run, run_id in known.items()]
        for call in calls:
            call()

    def _wait(self, pause_s: float) -> bool:
        """Waits for the pause and for a record. Returns False if the outbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._is_urgent, timeout=pause_s)
            self._is_urgent = False
            self._changed.wait_for(lambda: self._num_left or self._is_closed)
            return not self._is_closed

    def _clean_up(self) -> None:
        """Sends what earlier runs have left for this server, and ends their runs. Raises UnavailableError."""
        for sent in send_waiting(self._destination.store, self._report, self._destination):
            if sent.problem:
                raise UnavailableError(sent.problem)
        self._own.end_orphans()

    def _went_down(self, reason: str) -> None:
        with self._changed:
            if self._is_closed:
                return
            if not self._is_down:
                self._report(
                    f"MLflow at {self._address} cannot be used now ({reason}). Records are kept and sent later."
                )
            self._is_down = True
            self._changed.notify_all()

    def _sent(self) -> None:
        with self._changed:
            self._num_left -= 1
            self._is_down = False
            self._progress_at_s = time.monotonic()
            self._changed.notify_all()


def new_run_id() -> str:
    """Returns an id for a run of MLflow, which the run has as a tag: the server chooses its own."""
    return os.urandom(16).hex()


def now_ms() -> int:
    """Returns the time in milliseconds since 1970, as MLflow stores it."""
    return time.time_ns() // 1_000_000
