"""The watchdog ends a step whose lease is lost, whose driver is dead, or whose machine is preempted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import StepFailedError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.run.step_worker import run_step
from cluster.steps.plan import plan
from cluster.steps.task_spec import LateConfig, TaskSpec
from cluster.store.base import Store
from cluster.store.lease import NAME, FileLease, Lease, Leases, Owner, read_lease, to_json
from stages.common.engine import ENGINE
from tests.support.paths import ROOT
from tests.support.steps import toy, waits

pytestmark = pytest.mark.timeout(180)

DRIVER = """
import sys, time
from pathlib import Path
from cluster.store.lease import FileLease, Leases
with Leases(1.2) as leases:
    print(leases.acquire(FileLease(Path(sys.argv[1])), "step"), flush=True)
    time.sleep(600)
"""
WORKER = """
import sys, time
from pathlib import Path
from cluster.store.lease import FileLease
from cluster.run.watchdog import Watchdog
with Watchdog(FileLease(Path(sys.argv[1])), sys.argv[2], 1.2, *sys.argv[3:]) as watchdog:
    watchdog.clean_up = lambda: Path(sys.argv[1], "cleaned").touch()
    print("started", flush=True)
    try:
        while True:
            time.sleep(0.02)
    except KeyboardInterrupt:
        sys.exit(7 if watchdog.lease_lost else 8)
"""
ACCEPTED = "type('Training', (), {'send': lambda self: True})()"
"""A stop request of a training that ends gracefully, in its grace period of 20 seconds."""


class Processes:
    """Python processes of one test."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def start(self, code: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """Starts Python code in its own process. Returns the process and the first line that it prints."""
        command = [sys.executable, "-c", code, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = self._stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        )
        self._stack.callback(process.kill)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def close(self) -> None:
        """Kills all processes."""
        self._stack.close()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with closing(Processes()) as processes:
        yield processes


def write(folder: Path, lease: Lease) -> None:
    (folder / NAME).write_bytes(to_json(lease))


def test_worker_exits_when_its_driver_is_killed(processes: Processes, tmp_path: Path) -> None:
    driver, token = processes.start(DRIVER, str(tmp_path))
    worker, line = processes.start(WORKER, str(tmp_path), token)
    assert line == "started"
    while (lease := read_lease(tmp_path)) is None or lease.heartbeat < 8:
        time.sleep(0.05)
    # Without a heartbeat the lease would be expired.
    assert worker.poll() is None
    driver.kill()
    driver.wait()
    assert worker.wait(20) == 1
    assert (tmp_path / "cleaned").exists()


def test_step_ends_when_another_driver_has_the_lease(processes: Processes, tmp_path: Path) -> None:
    _, token = processes.start(DRIVER, str(tmp_path))
    worker, line = processes.start(WORKER, str(tmp_path), token)
    assert line == "started"
    lease = read_lease(tmp_path)
    assert lease is not None
    write(tmp_path, replace(lease, owner=Owner.current(), token="other"))
    assert worker.wait(20) == 7


def test_second_attempt_runs_under_the_lease_of_the_first_and_under_its_own(
    processes: Processes, tmp_path: Path
) -> None:
    lease = Lease(owner=Owner.current(), token="first")
    write(tmp_path, lease)
    worker, line = processes.start(WORKER, str(tmp_path), "second", "first")
    assert line == "started"
    for token in ("first", "second"):
        write(tmp_path, replace(lease, token=token))
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(2)
    write(tmp_path, replace(lease, token="other"))
    assert worker.wait(20) == 7


def test_training_of_the_loser_ends_without_its_grace_period(processes: Processes, tmp_path: Path) -> None:
    """The lease is read when the driver cancels the step, and not only when it is due, here after 100 seconds."""
    code = WORKER.replace("1.2", "600").replace("try:", f"watchdog.stop_request = {ACCEPTED}\n    try:")
    write(tmp_path, Lease(owner=Owner.current(), token="first"))
    worker, line = processes.start(code, str(tmp_path), "first")
    assert line == "started"
    time.sleep(2)
    write(tmp_path, Lease(owner=Owner.current(), token="second"))
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 7


def test_worker_exits_when_a_driver_on_another_machine_stops_renewing(processes: Processes, tmp_path: Path) -> None:
    with Leases(600) as leases:
        token = leases.acquire(FileLease(tmp_path), "step")
        lease = read_lease(tmp_path)
        assert lease is not None
        write(tmp_path, replace(lease, owner=replace(lease.owner, namespace="another machine")))
        worker, line = processes.start(WORKER, str(tmp_path), token)
        assert line == "started"
        assert worker.wait(20) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_driver_that_lost_a_lease_cancels_the_step_and_waits(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "calls"
    step = toy("contested", fn=waits, pause_s=60, counter=str(counter))
    folder = store.folder("contested", plan([step], store)[0].fingerprint)
    results: list[RunResult] = []
    options = RunOptions(engine=ENGINE, poll_s=0.05, ttl_s=1.2)
    driver = threading.Thread(target=lambda: results.append(execute([step], store, options)))
    driver.start()
    while not counter.exists():
        time.sleep(0.02)
    started = time.monotonic()
    lease = read_lease(folder)
    assert lease is not None
    write(folder, replace(lease, owner=Owner.current(), token="other"))
    while len(counter.read_bytes()) < 2:
        # The file shows when the first attempt ended. Then the other driver releases the lease.
        time.sleep(0.02)
    assert time.monotonic() - started < 20
    assert driver.is_alive() and not (folder / "manifest.json").exists()
    counter.write_bytes(b"over")
    (folder / "lease.json").unlink()
    driver.join()
    assert results[0].executed == ("contested",)


def test_process_starts_no_step_after_sigterm(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shutting_down = threading.Event()
    shutting_down.set()
    monkeypatch.setattr("cluster.run.watchdog._shutting_down", shutting_down)
    step = toy("pet/a")
    planned = plan([step], store)[0]
    lease = Lease(owner=Owner.current(), token="t")
    spec = TaskSpec(
        step=step.name, run=step.run, config=LateConfig(step.config), roles={}, key=planned.key, store=store.url,
        lease=lease, engine=ENGINE, resources=step.resources, files={}, identify="", provenance={},
    )  # fmt: skip
    failure = run_step(spec, lambda batch: True, ())
    assert isinstance(failure, StepFailedError) and failure.transient and failure.is_preemption
    assert "is being preempted" in failure.error
    assert not list(store.root.glob("pet/a/*/manifest.json"))
