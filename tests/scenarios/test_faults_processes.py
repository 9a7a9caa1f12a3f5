"""Processes that die or are stopped, on a real Ray of their own: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.steps.plan import PlanState, plan
from cluster.store.lease import _started
from cluster.store.location import open_store
from tests.support.training_steps import chain, driving

pytestmark = pytest.mark.timeout(180)

STEPS = ("train/first", "train/second", "train/third")
Files = dict[str, bytes]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Polls until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def files_of(root: Path) -> Files:
    """Path -> bytes of all committed files."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("train/*/*/files/*")}


def statuses(store: Path) -> dict[str, list[str]]:
    """Name of an MLflow run -> how its attempts stand."""
    found: dict[str, list[str]] = {}
    with sqlite3.connect(store / "mlflow.db") as database:
        for name, status in database.execute("select name, status from runs order by start_time"):
            found.setdefault(name, []).append(status)
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a run leaves that nobody disturbs."""
    folder = tmp_path_factory.mktemp("unbroken")
    counter = folder / "steps"
    with driving(folder / "store", counter) as driver:
        assert driver.end()["executed"] == list(STEPS)
        assert driver.process.returncode == 0
    assert len(counter.read_bytes()) == 90
    files = files_of(folder / "store")
    assert len(files) == 9
    return files


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file with one byte for every optimizer step."""
    path = tmp_path / "steps"
    path.touch()
    return path


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    """While this file is there the second training waits in the midst of it, with its process number in the file."""
    path = tmp_path / "fault"
    path.touch()
    return path


def waiting(fault: Path) -> int:
    """The process that waits, as soon as it does."""
    wait_for(lambda: fault.read_text().isdigit())
    return int(fault.read_text())


def finish(store: Path, counter: Path, executed: tuple[str, ...], *, tracked: bool = False) -> None:
    """The next run: does what is left, and nothing else."""
    with driving(store, counter, tracked=tracked) as driver:
        outcome = driver.end()
    assert tuple(outcome["executed"]) == executed
    assert set(outcome["cached"]) == set(STEPS) - set(executed)


def test_killed_driver_takes_its_workers_along_and_the_next_run_goes_on_mid_step(
    tmp_path: Path, counter: Path, fault: Path, unbroken: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, tracked=True) as driver:
        worker = waiting(fault)
        driver.send(signal.SIGKILL)
        driver.process.wait()
        wait_for(lambda: _started(worker) is None)
    assert statuses(store)["train/second"] == ["RUNNING"]
    fault.unlink()
    finish(store, counter, STEPS[1:], tracked=True)
    # The fifteenth optimizer step was begun twice, all others were made once.
    assert len(counter.read_bytes()) == 91
    assert files_of(store) == unbroken
    assert statuses(store)["train/second"] == ["FINISHED"], "the second attempt continues the run"


def test_killed_worker_is_replaced_by_one_that_goes_on_from_its_checkpoint(
    tmp_path: Path, counter: Path, fault: Path, unbroken: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault) as driver:
        os.kill(waiting(fault), signal.SIGKILL)
        fault.unlink()
        outcome = driver.end()
    assert outcome["executed"] == list(STEPS)
    assert outcome["attempts"]["train/second"] == 2
    assert len(counter.read_bytes()) == 91
    assert files_of(store) == unbroken


def test_worker_whose_machine_is_taken_away_saves_and_another_goes_on(
    tmp_path: Path, counter: Path, fault: Path, unbroken: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, every_s=3600) as driver:
        worker = waiting(fault)
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: list(store.glob("train/second/*/work/.stop_requested")))
        fault.unlink()
        driver.until("StepFailed", "train/second")
        failure = json.loads(next(store.glob("train/second/*/failure.json")).read_text())
        outcome = driver.end()
    assert "asked to end, and saved a checkpoint behind step 15" in failure["error"]
    assert outcome["executed"] == list(STEPS)
    assert outcome["attempts"]["train/second"] == 2
    assert len(counter.read_bytes()) == 90, "no step is made twice"
    assert files_of(store) == unbroken


def test_files_without_a_manifest_are_no_result(tmp_path: Path, counter: Path, fault: Path, unbroken: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, at=0) as driver:
        worker = waiting(fault)
        line = plan([chain(counter)], open_store(store))[1]
        place = store / line.name / line.fingerprint
        assert (place / "files" / "result.json").exists() and line.state is PlanState.RUN
        os.kill(worker, signal.SIGKILL)
        fault.unlink()
        outcome = driver.end()
    assert outcome["executed"] == list(STEPS)
    assert outcome["attempts"]["train/second"] == 2
    # All 30 steps were in the checkpoint.
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == unbroken


def test_two_drivers_at_once_run_each_step_once(tmp_path: Path, counter: Path, unbroken: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, tracked=True) as one, driving(store, counter, tracked=True) as other:
        outcomes = [one.end(), other.end()]
    assert sorted(outcomes[0]["executed"] + outcomes[1]["executed"]) == sorted(STEPS)
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == unbroken


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_driver_that_is_told_to_end_lets_what_trains_save_and_gives_all_back(
    number: signal.Signals, code: int, tmp_path: Path, counter: Path, fault: Path, unbroken: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, tracked=True, every_s=3600) as driver:
        worker = waiting(fault)
        driver.send(number)
        wait_for(lambda: list(store.glob("train/second/*/work/.stop_requested")))
        fault.unlink()
        outcome = driver.end()
        assert driver.process.returncode == code
        wait_for(lambda: _started(worker) is None)
    assert outcome["interrupted"] and outcome["executed"] == ["train/first"] and outcome["failed"] == []
    assert outcome["stopped"] == ["train/second", "train/third"]
    assert not list(store.glob("train/*/*/lease.json"))
    assert not list(store.glob("train/*/*/files*.part"))
    found = statuses(store)
    assert (found["train/first"], found["train/second"], found["run"]) == (["FINISHED"], ["KILLED"], ["KILLED"])
    assert "train/third" not in found
    assert len(counter.read_bytes()) == 45, "it ends behind the step in which it was asked"
    finish(store, counter, STEPS[1:])
    assert len(counter.read_bytes()) == 90, "no step is made twice"
    assert files_of(store) == unbroken


def test_ctrl_c_lets_a_commit_finish(tmp_path: Path, counter: Path, fault: Path, unbroken: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, at=0) as driver:
        waiting(fault)
        driver.send(signal.SIGTERM)
        driver.until("Interrupted")
        fault.unlink()
        outcome = driver.end()
        assert driver.process.returncode == 143
    assert outcome["executed"] == ["train/first", "train/second"] and outcome["stopped"] == ["train/third"]
    finish(store, counter, STEPS[2:])
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == unbroken


def test_ctrl_c_twice_leaves_at_once_and_loses_nothing(
    tmp_path: Path, counter: Path, fault: Path, unbroken: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, at=0) as driver:
        worker = waiting(fault)
        driver.send(signal.SIGINT)
        driver.until("Interrupted")
        driver.send(signal.SIGINT)
        assert driver.process.wait(10) == 130
        fault.unlink()
        wait_for(lambda: _started(worker) is None)
    # The commit may have come through or not; a committed one is not made again.
    committed = plan([chain(counter)], open_store(store))[1].state is PlanState.CACHED
    finish(store, counter, STEPS[2:] if committed else STEPS[1:])
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == unbroken
