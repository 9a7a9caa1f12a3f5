"""Processes that are killed or stopped, each driver with its own Ray: no result is lost or computed twice."""

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
from cluster.store.location import open_store
from tests.support.programs.training_driver import driving
from tests.support.training_steps import chain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

STEPS = ("train/first", "train/second", "train/third")
Files = dict[str, bytes]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Polls until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)


def is_running(process_id: int) -> bool:
    """Returns False for a process that is gone or a zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def files_of(root: Path) -> Files:
    """Returns step, fingerprint and name -> content of all committed files."""
    paths = root.glob("train/*/*/files/*/*")
    return {str(path.relative_to(root).parents[2] / path.name): path.read_bytes() for path in paths}


def statuses(store: Path) -> dict[str, list[str]]:
    """Returns name of an MLflow run -> the statuses of its runs."""
    by_name: dict[str, list[str]] = {}
    with sqlite3.connect(store / "mlflow.db") as database:
        for name, status in database.execute("select name, status from runs order by start_time"):
            by_name.setdefault(name, []).append(status)
    return by_name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a run without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
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
    """A file that gets one byte for every optimizer step."""
    path = tmp_path / "steps"
    path.touch()
    return path


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    """While this file exists, the second training step waits and writes its process id to it."""
    path = tmp_path / "fault"
    path.touch()
    return path


def wait_for_fault(fault: Path) -> int:
    """Returns the process that waits."""
    wait_for(lambda: fault.read_text().isdigit())
    return int(fault.read_text())


def finish(store: Path, counter: Path, executed: tuple[str, ...], *, tracked: bool = False) -> None:
    """Checks that the next run computes only these steps."""
    with driving(store, counter, tracked=tracked) as driver:
        result = driver.end()
    assert tuple(result["executed"]) == executed
    assert set(result["cached"]) == set(STEPS) - set(executed)


def test_run_resumes_after_its_driver_was_killed(
    tmp_path: Path, counter: Path, fault: Path, undisturbed: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, tracked=True) as driver:
        worker = wait_for_fault(fault)
        driver.send(signal.SIGKILL)
        driver.process.wait()
        wait_for(lambda: not is_running(worker))
    # Its latest records wait in the store, and the next run sends them.
    assert statuses(store).get("train/second", ["RUNNING"]) == ["RUNNING"]
    fault.unlink()
    finish(store, counter, STEPS[1:], tracked=True)
    # Only the fifteenth optimizer step ran twice.
    assert len(counter.read_bytes()) == 91
    assert files_of(store) == undisturbed
    assert statuses(store)["train/second"] == ["FINISHED"], "the second attempt continues the run"


def test_step_resumes_after_its_worker_was_killed(
    tmp_path: Path, counter: Path, fault: Path, undisturbed: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault) as driver:
        os.kill(wait_for_fault(fault), signal.SIGKILL)
        fault.unlink()
        result = driver.end()
    assert result["executed"] == list(STEPS)
    assert result["attempts"]["train/second"] == 2
    assert len(counter.read_bytes()) == 91
    assert files_of(store) == undisturbed


def test_preempted_worker_saves_a_checkpoint(tmp_path: Path, counter: Path, fault: Path, undisturbed: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, every_s=3600) as driver:
        worker = wait_for_fault(fault)
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: list(store.glob("train/second/*/work/.stop_requested")))
        fault.unlink()
        driver.until("StepFailed", "train/second")
        failure = json.loads(next(store.glob("train/second/*/failure.json")).read_text())
        result = driver.end()
    assert "saved a checkpoint after step 15" in failure["error"]
    assert result["executed"] == list(STEPS)
    assert result["attempts"]["train/second"] == 2
    assert len(counter.read_bytes()) == 90, "no optimizer step runs twice"
    assert files_of(store) == undisturbed


def test_files_without_a_manifest_do_not_count(tmp_path: Path, counter: Path, fault: Path, undisturbed: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, at=0) as driver:
        worker = wait_for_fault(fault)
        planned = plan([chain(counter)], open_store(store))[1]
        folder = store / planned.name / planned.fingerprint
        assert len(list(folder.glob("files/*/result.json"))) == 1 and planned.state is PlanState.RUN
        os.kill(worker, signal.SIGKILL)
        fault.unlink()
        result = driver.end()
    assert result["executed"] == list(STEPS)
    assert result["attempts"]["train/second"] == 2
    # The checkpoint had all 30 optimizer steps.
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == undisturbed


def test_two_drivers_run_each_step_once(tmp_path: Path, counter: Path, undisturbed: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, tracked=True) as first, driving(store, counter, tracked=True) as second:
        results = [first.end(), second.end()]
    assert sorted(results[0]["executed"] + results[1]["executed"]) == sorted(STEPS)
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_driver_saves_checkpoints_and_releases_leases(
    number: signal.Signals, code: int, tmp_path: Path, counter: Path, fault: Path, undisturbed: Files
) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, tracked=True, every_s=3600) as driver:
        worker = wait_for_fault(fault)
        driver.send(number)
        wait_for(lambda: list(store.glob("train/second/*/work/.stop_requested")))
        fault.unlink()
        result = driver.end()
        assert driver.process.returncode == code
        wait_for(lambda: not is_running(worker))
    assert result["interrupted"] and result["executed"] == ["train/first"] and result["failed"] == []
    assert result["stopped"] == ["train/second", "train/third"]
    assert not list(store.glob("train/*/*/lease.json"))
    assert not list(store.glob("train/*/*/files*.part"))
    by_name = statuses(store)
    assert (by_name["train/first"], by_name["train/second"], by_name["run"]) == (["FINISHED"], ["KILLED"], ["KILLED"])
    assert "train/third" not in by_name
    assert len(counter.read_bytes()) == 45, "training ends after the optimizer step in which the request came"
    finish(store, counter, STEPS[1:])
    assert len(counter.read_bytes()) == 90, "no optimizer step runs twice"
    assert files_of(store) == undisturbed


def test_interrupted_driver_finishes_a_commit(tmp_path: Path, counter: Path, fault: Path, undisturbed: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, at=0) as driver:
        wait_for_fault(fault)
        driver.send(signal.SIGTERM)
        driver.until("Interrupted")
        fault.unlink()
        result = driver.end()
        assert driver.process.returncode == 143
    assert result["executed"] == ["train/first", "train/second"] and result["stopped"] == ["train/third"]
    finish(store, counter, STEPS[2:])
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == undisturbed


def test_second_ctrl_c_exits_at_once(tmp_path: Path, counter: Path, fault: Path, undisturbed: Files) -> None:
    store = tmp_path / "store"
    with driving(store, counter, fault, at=0) as driver:
        worker = wait_for_fault(fault)
        driver.send(signal.SIGINT)
        driver.until("Interrupted")
        driver.send(signal.SIGINT)
        assert driver.process.wait(10) == 130
        fault.unlink()
        wait_for(lambda: not is_running(worker))
    # The commit may be complete or not. A committed step does not run again.
    committed = plan([chain(counter)], open_store(store))[1].state is PlanState.CACHED
    finish(store, counter, STEPS[2:] if committed else STEPS[1:])
    assert len(counter.read_bytes()) == 90
    assert files_of(store) == undisturbed
