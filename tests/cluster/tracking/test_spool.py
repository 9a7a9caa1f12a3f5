"""The file with the records of a run that wait for MLflow."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.tracking.spool import RECORDS, Spool, waiting

HEADER = {"kind": "open"}


def read_all(spool: Spool) -> list[dict[str, Any]]:
    records = []
    while (record := spool.read()) is not None:
        records.append(record)
        spool.acknowledge()
    return records


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Limits the size of all files that this process writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_records_are_read_in_order_and_again_until_acknowledged(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    spool.append({"text": "a\nb \ud800 é"})
    spool.append({"value": float("inf")})
    assert spool.read() == spool.read() == HEADER
    spool.acknowledge()
    assert spool.num_left() == 2
    spool.close()
    again = Spool.claim(spool.folder)
    assert again is not None
    assert again.header() == HEADER
    assert read_all(again) == [{"text": "a\nb \ud800 é"}, {"value": float("inf")}]
    again.append({"last": 1})
    assert read_all(again) == [{"last": 1}]
    assert (spool.folder / RECORDS).stat().st_mode & 0o777 == 0o600
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_spools_are_sent_in_the_order_of_their_runs_also_within_a_second(tmp_path: Path) -> None:
    for number in range(20):
        Spool.create(tmp_path, {**HEADER, "number": number}).close()
    spools = list(waiting(tmp_path))
    assert [spool.header()["number"] for spool in spools] == list(range(20))
    for spool in spools:
        spool.close()


def test_live_spool_cannot_be_claimed(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    assert Spool.claim(spool.folder) is None
    assert list(waiting(tmp_path)) == list(waiting(tmp_path / "nowhere")) == []
    spool.close()
    (claimed,) = waiting(tmp_path)
    assert claimed.folder == spool.folder and Spool.claim(spool.folder) is None
    claimed.remove()
    assert Spool.claim(spool.folder) is None


def test_spool_of_a_killed_driver_is_complete_without_its_last_part(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_append_and_die, args=(tmp_path,))
    process.start()
    process.join()
    (spool,) = waiting(tmp_path)
    assert read_all(spool) == [HEADER, {"a": 1}]
    assert spool.num_left() == 0
    spool.close()


def _append_and_die(root: Path) -> None:
    spool = Spool.create(root, HEADER)
    spool.append({"a": 1})
    with (spool.folder / RECORDS).open("ab") as file:
        file.write(b'{"b": ')
    os.kill(os.getpid(), signal.SIGKILL)


def test_damaged_line_costs_no_other_record(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    with (spool.folder / RECORDS).open("ab") as file:
        file.write(b"\0\0\0\n")
    spool.close()
    claimed = Spool.claim(spool.folder)
    assert claimed is not None
    claimed.append({"a": 1})
    assert read_all(claimed) == [HEADER, {"a": 1}]
    claimed.close()


def test_record_waits_for_space_on_the_disk(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, HEADER)
    with full_disk(100):
        for number in range(2):
            with pytest.raises(OSError, match="too large"):
                spool.append({"number": number, "text": "x" * 200})
        assert read_all(spool) == [HEADER], "a reader sees no part of a record"
        assert spool.num_left() == 2
    spool.append({"number": 2})
    assert [record["number"] for record in read_all(spool)] == [0, 1, 2]
    spool.close()
