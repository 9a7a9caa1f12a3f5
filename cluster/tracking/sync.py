"""Sends what earlier runs have left for MLflow, and keeps it with the store if the store is at a URL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import LeaseHeldError, TrackingError
from cluster.redaction import redact
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.tracking.delivery import MAX_ATTEMPTS, Delivery, UnavailableError
from cluster.tracking.server import Destination
from cluster.tracking.spool import FOLDER, POSITION, RECORDS, Spool, waiting

PAUSE_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class SentRecords:
    """What was sent of one earlier run.

    Args:
        run: Its experiment, and its folder, which begins with the time of its start.
        address: The server, without secrets.
        num_sent: Number of records that were sent now.
        num_left: Number of records that still wait.
        problem: Why they wait; empty: none do.
    """

    run: str
    address: str
    num_sent: int = 0
    num_left: int = 0
    problem: str = ""


def send_waiting(store: Path, report: Callable[[str], None], only: Destination | None = None) -> Iterator[SentRecords]:
    """Sends the records of runs that have ended, oldest first. Leaves those of a server out once it does not answer.

    Args:
        store: Local folder of the store.
        report: Called with each record that a server refused.
        only: Send only what is for this server.
    """
    problems: dict[str, str] = {}
    for spool in waiting(store / FOLDER):
        with closing(spool):
            header = spool.header()
            if not header:  # its driver was killed before the first record
                spool.remove()
                continue
            address = header["uri"] or "the database of the store"
            try:
                destination = Destination.from_record(store, header)
            except TrackingError as error:
                if only is None:
                    yield SentRecords(
                        run=_name(header, spool), address=address, num_left=spool.num_left(), problem=str(error)
                    )
                continue
            if only is None or destination.address == only.address:
                sent = _send(spool, destination, report, problems.get(destination.address, ""))
                if sent.problem:
                    problems[destination.address] = sent.problem
                yield sent


def fetch_waiting(store: Store, leases: Leases) -> None:
    """Moves records that other machines have left with the store to this machine. Does nothing on a local store."""
    for name in store.notes(FOLDER):
        folder = store.local / FOLDER / name
        if folder.exists():
            continue
        slot = store.slot(FOLDER, name)
        try:
            leases.acquire(slot, "the outbox")
        except LeaseHeldError:  # another machine sends it
            continue
        try:
            hidden = folder.with_name(f".{name}")
            hidden.mkdir(parents=True, exist_ok=True)
            for file in (POSITION, RECORDS):
                (hidden / file).touch(0o600)
                (hidden / file).write_bytes(store.read(f"{FOLDER}/{name}/{file}"))
            hidden.rename(folder)
            store.remove(f"{FOLDER}/{name}/{RECORDS}")
        except FileNotFoundError:  # another machine has moved it
            continue
        finally:
            leases.release(slot)
        store.remove(f"{FOLDER}/{name}")


def hand_over_waiting(store: Store) -> None:
    """Moves records that wait on this machine to the store, where any machine can send them.

    Does nothing on a local store.
    """
    if store.url == str(store.local):
        return
    for spool in waiting(store.local / FOLDER):
        with closing(spool):
            store.upload(spool.folder)
            spool.remove()


def _send(spool: Spool, destination: Destination, report: Callable[[str], None], problem: str) -> SentRecords:
    """Sends the records of a run. A `problem` of its server leaves them where they are."""
    delivery = Delivery(spool, destination, report)
    num_failures = MAX_ATTEMPTS if problem else 0
    while num_failures < MAX_ATTEMPTS:
        try:
            if not delivery.send_next():
                break
            num_failures = 0
        except UnavailableError as error:
            num_failures += 1
            problem = str(error)
            time.sleep(PAUSE_S)
    else:
        return _result(delivery, spool.num_left(), problem)
    with suppress(UnavailableError):
        delivery.end_orphans()
    spool.remove()
    return _result(delivery, 0, "")


def _result(delivery: Delivery, num_left: int, problem: str) -> SentRecords:
    return SentRecords(
        run=_name(delivery.destination.record(), delivery.spool),
        address=redact(delivery.destination.address),
        num_sent=delivery.num_sent,
        num_left=num_left,
        problem=problem,
    )


def _name(header: Mapping[str, Any], spool: Spool) -> str:
    return f"{header['experiment']}/{spool.folder.name}"
