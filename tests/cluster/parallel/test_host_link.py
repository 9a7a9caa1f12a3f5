"""Reports of workers on other machines. Two folders stand for two machines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cluster.parallel.host_link import HostLink, Report, StepFolder, StopState
from cluster.parallel.worker_signals import StopRequest, read_dumps

DUMP = """Timeout (0:00:10)!
Thread 0x1 (most recent call first):
  File "a.py", line 7 in all_reduce
  File "b.py", line 9 in work

"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder of the process of the step: its log, dumps and checkpoints."""
    (tmp_path / "here" / "work").mkdir(parents=True)
    (tmp_path / "here" / "log").write_text("started\n")
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder of a worker on another machine."""
    (tmp_path / "there" / "work").mkdir(parents=True)
    (tmp_path / "there" / "log").touch()
    return tmp_path / "there"


def step_folder(here: Path) -> StepFolder:
    return StepFolder(here / "log", here / "dumps", here / "work")


def link(there: Path, send: Callable[[Report], StopState | None], rank: int = 1) -> HostLink:
    stop_request = StopRequest(there / "work")
    return HostLink(send, rank, there / "log", there / f"{rank}.txt", stop_request)


def test_output_arrives_once_and_in_order(here: Path, there: Path) -> None:
    folder, answers = step_folder(here), [True, False, False, True]
    received: list[Report] = []

    def send(report: Report) -> StopState | None:
        """Loses the second report, and the answer to the third."""
        is_answered = answers[len(received)]
        received.append(report)
        state = folder.receive(report) if len(received) != 2 else None
        return state if is_answered else None

    with (there / "log").open("a") as output, closing(link(there, send)) as connection:
        assert not (there / "log").exists(), "the output does not stay on the machine"
        for number, is_answered in enumerate(answers):
            output.write(f"line {number}\n")
            output.flush()
            assert connection.report() is is_answered
    assert (here / "log").read_text() == "started\nline 0\nline 1\nline 2\nline 3\n"


def test_last_output_arrives_when_the_link_ends(here: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (there / "log").open("a") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with link(there, step_folder(here).receive):
            sys.stdout.write("the end\n")
    assert (here / "log").read_text() == "started\nthe end\n"


def test_dump_arrives_where_the_process_of_the_step_reads_it(here: Path, there: Path) -> None:
    received: list[Report] = []
    folder = step_folder(here)

    def send(report: Report) -> StopState:
        received.append(report)
        return folder.receive(report)

    with closing(link(there, send)) as connection:
        connection.report()
        assert read_dumps(here / "dumps", "work") == ""
        (there / "1.txt").write_text(DUMP)
        connection.report()
        connection.report()
    assert [bool(report.dump) for report in received] == [False, True, False]
    assert read_dumps(here / "dumps", "work").splitlines()[:2] == [
        "worker 1 hangs at",
        '  File "a.py", line 7 in all_reduce',
    ]


@pytest.mark.parametrize("origin", ["the process of the step", "another worker"])
def test_stop_request_reaches_rank_0(origin: str, here: Path, there: Path, tmp_path: Path) -> None:
    """Rank 0 trains on one machine, rank 1 on another; the process of the step is on a third one."""
    (tmp_path / "lead" / "work").mkdir(parents=True)
    (tmp_path / "lead" / "log").touch()
    folder = step_folder(here)
    request = StopRequest((here if origin == "the process of the step" else there) / "work")
    with (
        closing(link(tmp_path / "lead", folder.receive, rank=0)) as lead,
        closing(link(there, folder.receive)) as other,
    ):
        with StopRequest(tmp_path / "lead" / "work").graceful_stop() as is_stop_requested:
            assert not request.send(), "it is not known here yet that the step accepts requests"
            lead.report()
            other.report()
            assert request.send()
            other.report()
            assert not is_stop_requested()
            lead.report()
            assert is_stop_requested()
        lead.report()
        other.report()
        assert not request.send(), "training is over"
