"""Sends the records of one spool to MLflow, in order. A server that is away differs from one that refuses a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.errors import TrackingError
from cluster.redaction import redact
from cluster.tracking.run_writer import Record, RunWriter, halves
from cluster.tracking.server import Destination
from cluster.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_ATTEMPTS = 3
"""How often a server that stores other things may fail at a record before the record is left out."""
TEMPORARY_STATUS = (401, 403, 408, 429)
"""HTTP status of clients whose requests may succeed later; all others from 400 to 499 are final."""


class UnavailableError(Exception):
    """MLflow does not answer or cannot store anything now. The argument is the reason, in one line."""


class Delivery:
    """Sends what a spool has.

    Args:
        spool: The spool. The caller closes it.
        destination: The server.
        report: Called with each record that the server refused.
        is_own: The records are of this process, so the server has none of them yet.
        client: Client of the server; None: it is opened with the first record.
    """

    def __init__(
        self,
        spool: Spool,
        destination: Destination,
        report: Callable[[str], None],
        *,
        is_own: bool = False,
        client: MlflowClient | None = None,
    ) -> None:
        self.spool = spool
        self.destination = destination
        self.experiment_id = ""
        self.num_sent = 0
        self._report = report
        self._is_repeated = not is_own
        self._client = client
        self._writer: RunWriter | None = None
        self._num_attempts = 0

    def send_next(self) -> bool:
        """Sends the next record. Returns False if there is none.

        Raises:
            UnavailableError: try again later; the record is kept.
        """
        record = self.spool.read()
        if record is not None and record["kind"] == "open":
            self.spool.acknowledge()
            record = self.spool.read()
        if record is None:
            return False
        self._send(record)
        self.num_sent += 1
        self.spool.acknowledge()
        self._num_attempts = 0
        return True

    def known_id(self, run: str) -> str | None:
        """See `RunWriter`."""
        return None if self._writer is None else self._writer.known_id(run)

    def end_orphans(self) -> None:
        """See `RunWriter`. Raises UnavailableError."""
        try:
            self._connected().end_orphans()
        except Exception as error:
            raise UnavailableError(_first_line(error)) from error

    def _connected(self) -> RunWriter:
        if self._writer is None:
            self._client = self._client or self.destination.open_client()
            self.experiment_id = self.destination.find_experiment(self._client)
            self._writer = RunWriter(self._client, self.experiment_id)
        return self._writer

    def _send(self, record: Record) -> None:
        """Sends a record, or leaves it out if a server that works does not accept it."""
        try:
            writer = self._connected()
        except Exception as error:
            raise UnavailableError(_first_line(error)) from error
        try:
            writer.write(record, is_repeated=self._is_repeated or self._num_attempts > 0)
        except Exception as error:  # of a server, a database or a disk
            self._num_attempts += 1
            if not self._is_refused(error, record, writer):
                raise UnavailableError(_first_line(error)) from error
            parts = halves(record)
            for part in parts:
                self._send(part)
            if not parts:
                writer.refuse(record)
                self._report(f"MLflow at {redact(self.destination.address)} refused a record ({_first_line(error)}).")

    def _is_refused(self, error: Exception, record: Record, writer: RunWriter) -> bool:
        """Returns True if the server will never accept the record, as far as the error says."""
        status = _status(error)
        if status is not None and 400 <= status < 500:
            return status not in TEMPORARY_STATUS
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError):
            return True
        # A store of files may be full or away while the database works; no small file can tell.
        return record["kind"] not in ("file", "table") and self._num_attempts >= MAX_ATTEMPTS and writer.can_write()


def _status(error: Exception) -> int | None:
    """Returns the HTTP status of an error of MLflow or of a request; None if it has none."""
    code = getattr(error, "get_http_status_code", None)
    if code is not None:
        return int(code())
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)


def _first_line(error: Exception) -> str:
    text = str(error.problem if isinstance(error, TrackingError) else error).strip()
    return redact(text.splitlines()[0] if text else type(error).__name__)
