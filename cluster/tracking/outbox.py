"""Sends calls to MLflow from one background thread, in order, so that no step waits for a server or fails with it.

If the server is down, slow or full, calls wait here and are repeated; a call that a working server refuses is dropped.
A run that is created here has an id of this process until the server has given it one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.redaction import redact

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_REFUSALS = 3
"""How often a server that answers may refuse a call before it is dropped."""
PAUSE_S, MAX_PAUSE_S = 0.5, 15.0
ID_WITHIN_S = 5.0
"""How long a step waits for the id of its run."""
DELIVER_WITHIN_S = 60.0
"""At the end of a run: give up if no call succeeded for this long."""


@dataclass(slots=True, eq=False)
class _Call:
    """A method of the client with its arguments; or, without a method, a function of client and id."""

    method: str
    run_id: str
    arguments: tuple[Any, ...] = ()
    function: Callable[[MlflowClient, str], None] | None = None
    num_refusals: int = 0


class Outbox:
    """The calls of one run of a pipeline.

    Args:
        client: Client of the server or database.
        experiment_id: Its experiment. A request for it checks that the server works.
        uri: Address of the server, for messages.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, uri: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._uri = redact(uri)
        self._calls: deque[_Call] = deque()
        self._ids: dict[str, str] = {}
        """Id of this process -> id of the server; empty if the server refused to create the run."""
        self._problems: dict[str, bool] = {}
        """Problem -> whether `new_problems` has returned it."""
        self._is_down = self._is_slow = False
        self._progress_at_s = time.monotonic()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._keep_sending, name="outbox", daemon=True)
        self._thread.start()

    def create_run(self, tags: dict[str, str], name: str) -> str:
        """Creates a run. Returns its id in this process, which all methods accept."""
        local_id = f"outbox-{os.urandom(8).hex()}"
        self._add(_Call("create_run", local_id, (tags, name)))
        return local_id

    def call(self, method: str, run_id: str, *arguments: Any) -> None:
        """Calls a method of the client with a run and further arguments."""
        self._add(_Call(method, run_id, arguments))

    def submit(self, run_id: str, function: Callable[[MlflowClient, str], None]) -> None:
        """Calls a function with the client and the id of the run on the server."""
        self._add(_Call("", run_id, function=function))

    def server_id(self, run_id: str, within_s: float = ID_WITHIN_S) -> str | None:
        """Returns the id of a run on the server; None if the server has not created it yet."""
        with self._changed:
            # Steps do not wait again for a server that was slow, until it has caught up.
            within_s = 0.0 if self._is_slow else within_s
            self._is_slow |= not self._changed.wait_for(lambda: self._id(run_id) is not None or self._is_down, within_s)
            return self._id(run_id) or None

    def new_problems(self) -> list[str]:
        """Returns what went wrong since the last call; each problem once."""
        with self._changed:
            new = [problem for problem, is_returned in self._problems.items() if not is_returned]
            self._problems |= dict.fromkeys(new, True)
        return new

    def drain(self) -> bool:
        """Waits until all calls are sent. Returns False if the server does not make progress."""
        with self._changed:
            self._progress_at_s = time.monotonic()
            while self._calls:
                left_s = self._progress_at_s + DELIVER_WITHIN_S - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def close(self) -> None:
        """Sends what is left, and ends the thread. What cannot be sent is lost, which is a problem to report."""
        is_empty = self.drain()
        with self._changed:
            self._is_closed = True
            if not is_empty:
                self._report(f"{len(self._calls)} records of this run were not sent to MLflow at {self._uri}.")
            self._changed.notify_all()
        if is_empty:
            self._thread.join()

    def _add(self, call: _Call) -> None:
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()

    def _id(self, run_id: str) -> str | None:
        return self._ids.get(run_id) if run_id.startswith("outbox-") else run_id

    def _report(self, problem: str) -> None:
        self._problems.setdefault(problem, False)

    def _keep_sending(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._is_closed)
                if self._is_closed:
                    return
                call = self._calls[0]
            pause_s = self._send(call)
            if pause_s:
                time.sleep(pause_s)

    def _send(self, call: _Call) -> float:
        """Sends the first call. Returns the pause before the next attempt; 0: the call is done."""
        try:
            self._execute(call)
        except Exception as error:  # of a server, a database or a disk
            return self._failed(call, error)
        self._done()
        return 0.0

    def _execute(self, call: _Call) -> None:
        if call.method == "create_run":
            tags, name = call.arguments
            known = {key: self._ids.get(value, value) for key, value in tags.items()}
            run = self._client.create_run(self._experiment_id, tags=known, run_name=name)
            with self._changed:
                self._ids[call.run_id] = str(run.info.run_id)
            return
        run_id = self._id(call.run_id)
        if not run_id:  # the server refused to create the run
            return
        if call.function is not None:
            call.function(self._client, run_id)
        else:
            arguments = [self._ids.get(item, item) if isinstance(item, str) else item for item in call.arguments]
            getattr(self._client, call.method)(run_id, *arguments)

    def _failed(self, call: _Call, error: Exception) -> float:
        """Decides if the server is down or refuses the call. Returns the pause before the next attempt."""
        text = redact(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        if not self._answers():
            with self._changed:
                self._is_down = True
                self._report(f"MLflow at {self._uri} does not answer ({text}). Records are kept and sent later.")
                self._changed.notify_all()
            call.num_refusals += 1
            return float(min(PAUSE_S * 2 ** min(call.num_refusals, 10), MAX_PAUSE_S))
        if self._is_down:
            self._is_down, call.num_refusals = False, 0
        call.num_refusals += 1
        if call.num_refusals < MAX_REFUSALS:
            return PAUSE_S
        with self._changed:
            halves = _halves(call)
            if halves:
                self._calls.extendleft(reversed(halves))
            else:
                self._report(f"MLflow at {self._uri} refused a record ({text}).")
            if call.method == "create_run":
                self._ids[call.run_id] = ""
        self._done(call)
        return 0.0

    def _done(self, call: _Call | None = None) -> None:
        with self._changed:
            if call is None:
                self._calls.popleft()
                self._is_down = False
                self._is_slow &= bool(self._calls)
            else:
                self._calls.remove(call)
            self._progress_at_s = time.monotonic()
            self._changed.notify_all()

    def _answers(self) -> bool:
        try:
            self._client.get_experiment(self._experiment_id)
        except Exception:
            return False
        return True


def _halves(call: _Call) -> list[_Call]:
    """Splits a batch, so that one value that the server refuses does not cost the others."""
    if call.method != "log_batch":
        return []
    items = [(kind, item) for kind, group in enumerate(call.arguments) for item in group]
    if len(items) < 2:
        return []
    middle = len(items) // 2
    return [
        _Call(
            "log_batch",
            call.run_id,
            tuple([item for its_kind, item in half if its_kind == kind] for kind in range(len(call.arguments))),
            num_refusals=MAX_REFUSALS - 1,
        )
        for half in (items[:middle], items[middle:])
    ]
