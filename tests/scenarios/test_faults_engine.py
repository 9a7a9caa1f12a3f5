"""What ends a step from outside, what is tried again, and a node of a cluster that dies."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import StepFailedError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.run.step_worker import run_step
from cluster.run.transient_errors import is_transient
from cluster.steps.plan import plan
from cluster.steps.task_spec import TaskSpec
from cluster.store.base import Store
from cluster.store.lease import Leases, Owner, _write, read_lease
from stages.common.errors import AssetError, DivergedError
from tests.support.paths import ROOT
from tests.support.steps import toy, waits

pytestmark = pytest.mark.timeout(180)

OWNER = """
import sys, time
from pathlib import Path
from cluster.store.lease import Leases
with Leases(1.2) as leases:
    print(leases.acquire(Path(sys.argv[1]), "step"), flush=True)
    time.sleep(600)
"""
WORKER = """
import sys, time
from pathlib import Path
from cluster.store.lease import FileLease
from cluster.run.watchdog import Watchdog
with Watchdog(FileSlot(Path(sys.argv[1])), sys.argv[2], 1.2) as watchdog:
    print("begun", flush=True)
    try:
        while True:
            time.sleep(0.02)
    except KeyboardInterrupt:
        sys.exit(7 if watchdog.lease_lost else 8)
"""


def process(code: str, *words: str) -> subprocess.Popen[str]:
    """Python in a process of its own. It prints a line when it has begun."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, env=environment)


def first_line(of: subprocess.Popen[str]) -> str:
    """What a process says first."""
    assert of.stdout is not None
    return of.stdout.readline().strip()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A driver that holds a lease, and a worker that is guarded."""
    driver = process(OWNER, str(tmp_path))
    worker = process(WORKER, str(tmp_path), first_line(driver))
    assert first_line(worker) == "begun"
    return driver, worker


def test_worker_goes_on_while_its_driver_beats_and_leaves_when_that_is_killed(
    pair: tuple[subprocess.Popen[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    driver, worker = pair
    while (lease := read_lease(tmp_path)) is None or lease.heartbeat < 8:
        time.sleep(0.05)
    # Longer than the lease would live without a heartbeat.
    assert worker.poll() is None
    driver.kill()
    driver.wait()
    assert worker.wait(20) == 1


def test_worker_stops_when_another_driver_took_the_lease(
    pair: tuple[subprocess.Popen[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    driver, worker = pair
    lease = read_lease(tmp_path)
    assert lease is not None
    _write(tmp_path, replace(lease, owner=Owner.current(), token="thief"))
    assert worker.wait(20) == 7
    driver.kill()
    driver.wait()


def test_worker_leaves_when_a_driver_elsewhere_is_silent_for_long(tmp_path: Path) -> None:
    with Leases(600) as leases:
        token = leases.acquire(tmp_path, "step")
        lease = read_lease(tmp_path)
        assert lease is not None
        _write(tmp_path, replace(lease, owner=replace(lease.owner, namespace="another machine")))
        worker = process(WORKER, str(tmp_path), token)
        assert first_line(worker) == "begun"
        assert worker.wait(20) == 1


@pytest.mark.usefixtures("ray_session")
def test_step_whose_lease_is_lost_is_cancelled_and_the_others_result_awaited(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "calls"
    step = toy("contested", fn=waits, pause_s=60, counter=str(counter))
    place = store.folder("contested", plan([step], store)[0].fingerprint)
    outcomes: list[RunResult] = []
    options = RunOptions(poll_s=0.05, ttl_s=1.2)
    driver = threading.Thread(target=lambda: outcomes.append(execute([step], store, options)))
    driver.start()
    while not counter.exists():
        time.sleep(0.02)
    begun = time.monotonic()
    lease = read_lease(place)
    assert lease is not None
    _write(place, replace(lease, owner=Owner.current(), token="thief"))
    while len(counter.read_bytes()) < 2:
        # The file says when the first attempt ended, after which the thief gives way.
        time.sleep(0.02)
    assert time.monotonic() - begun < 20
    assert driver.is_alive() and not (place / "manifest.json").exists()
    counter.write_bytes(b"no more")
    (place / "lease.json").unlink()
    driver.join()
    assert outcomes[0].executed == ("contested",)


@pytest.mark.parametrize(("what", "attempts", "num_steps"), [("raylet", 1, 90), ("machine", 2, 91)])
def test_a_node_that_is_lost_takes_no_work_along(what: str, attempts: int, num_steps: int, tmp_path: Path) -> None:
    """An orphaned worker's result is used; of a dead one's step, the optimizer step that waited is begun twice."""
    store, counter, fault = tmp_path / "store", tmp_path / "steps", tmp_path / "fault"
    counter.touch()
    fault.touch()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.support.programs.lost_node", str(store), str(counter), str(fault), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("outcome ")).split(" ", 1)[1]
    )
    assert outcome["done"] == ["train/first", "train/second", "train/third"], outcome["errors"]
    assert outcome["attempts"]["train/second"] == attempts
    assert len(counter.read_bytes()) == num_steps


def response_error(status: int) -> Exception:
    """What the hub's client raises for an answer of a server."""
    import httpx2 as httpx
    from huggingface_hub.errors import HfHubHTTPError

    request = httpx.Request("GET", "https://example.org")
    return HfHubHTTPError("the server said", response=httpx.Response(status, request=request))


def caused(outer: Exception, inner: Exception) -> Exception:
    """An error that another one led to."""
    outer.__cause__ = inner
    return outer


def passing_errors() -> list[Exception]:
    """Errors after which another attempt makes sense."""
    import httpx2 as httpx
    import requests
    import urllib3

    return [
        ConnectionResetError("hung up"),
        TimeoutError(),
        OSError(errno.ENETUNREACH, "no way there"),
        httpx.ConnectTimeout("late"),
        httpx.RemoteProtocolError("half an answer"),
        requests.exceptions.ConnectionError("refused"),
        requests.exceptions.ReadTimeout("late"),
        urllib3.exceptions.ProtocolError("half an answer"),
        response_error(429),
        response_error(503),
        caused(OSError("the model cannot be loaded"), httpx.ConnectError("refused")),
    ]


def lasting_errors() -> list[Exception]:
    """Errors that come again."""
    import httpx2 as httpx

    return [
        ValueError("a bad number"),
        OSError(errno.ENOSPC, "no space left"),
        FileNotFoundError("gone"),
        response_error(404),
        httpx.InvalidURL("odd"),
        DivergedError("the loss became nan", "Lower learning_rate."),
        caused(AssetError("it is not there", "Name another one."), httpx.ConnectError("refused")),
    ]


@pytest.mark.parametrize("error", passing_errors(), ids=repr)
def test_errors_that_may_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", lasting_errors(), ids=repr)
def test_errors_that_last(error: Exception) -> None:
    assert not is_transient(error)


def test_process_that_was_told_to_go_begins_no_other_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = threading.Event()
    leaving.set()
    monkeypatch.setattr("cluster.run.watchdog._shutting_down", leaving)
    step = toy("pet/a")
    line = plan([step], store)[0]
    order = TaskSpec(
        step=step.name, run=step.run, config=step.config, roles={}, key=line.key, store=store.url, token="t",
        resources=step.resources, attempt=1, run_id=None,
    )  # fmt: skip
    outcome = run_step(order, lambda batch: True, ())
    assert isinstance(outcome, StepFailedError) and outcome.transient and outcome.is_preemption
    assert "taken away" in outcome.error
    assert not list(store.root.glob("pet/a/*/manifest.json"))
