"""Secrets in URLs reach neither logs nor errors nor MLflow."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.redaction import redact
from cluster.run.attempt_logs import AttemptLog, finish_left_logs
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.run.step_worker import run_step
from cluster.steps.step import Resources
from cluster.store.base import Store
from cluster.store.lease import Lease, Owner
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.tracking.run_logger import Dataset
from cluster.tracking.tracker import TrackedStep, Tracker
from stages.common.engine import ENGINE
from tests.support.mlflow_helpers import runs
from tests.support.paths import ROOT
from tests.support.s3_helpers import opened
from tests.support.steps import task_spec, toy

PASSWORD = "pa55w0rd"
URL = f"https://me:{PASSWORD}@data.example/films.csv"


def datasets(step: str) -> list[Dataset]:
    return [Dataset(name=step, digest="0" * 64, context="train", address=URL)]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_failed_step_reports_a_url_without_its_password(store: Store) -> None:
    step = toy("data/films", 1, fail=f"address {URL}")
    with Tracker.open(store.local, "films", "run", tags={"from": URL}, datasets=datasets) as tracker:
        result = execute([step], store, RunOptions(engine=ENGINE, poll_s=0.05), tracker)
        tracker.parent.log_text("recipe.yaml", f"path: {URL}")
        tracker.parent.log_table("plan", [{"reason": URL}])
    error = result.errors["data/films"]
    log = Path(error.log).read_text()
    assert "https://me:***@data.example" in error.problem
    assert log.count("https://me:***@data.example") >= 2, "the output and the traceback"
    assert PASSWORD not in f"{error} {error.trace} {log}"
    for path in (store.local / "mlartifacts").rglob("*"):
        assert not path.is_file() or PASSWORD not in path.read_text(errors="replace"), path
    assert PASSWORD.encode() not in (store.local / "mlflow.db").read_bytes()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_log_of_a_killed_worker_is_redacted_and_private(store: Store) -> None:
    step = toy("killed", 1, fail=f"kill {URL}", resources=Resources(max_attempts=1))
    error = execute([step], store, RunOptions(engine=ENGINE, poll_s=0.05)).errors["killed"]
    log = Path(error.log)
    assert "https://me:***@data.example" in log.read_text() and PASSWORD not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def killed(store: Store) -> Path:
    """Kills a worker together with its driver. Returns the log."""
    program = str(ROOT / "tests" / "support" / "programs" / "killed_worker.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, program, store.url, URL], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    [log] = store.local.glob("logs/killed/*.log")
    assert PASSWORD in log.read_text()
    return log


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_next_run_redacts_the_log_of_a_driver_and_worker_that_were_killed(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if where == "s3":
        request.getfixturevalue("proxy")
    store = opened() if where == "s3" else open_store(tmp_path / "store")
    done = toy("done", 2)
    run_step(task_spec(done, store), lambda batch: True, ())
    log = killed(store)
    assert execute([done], store, RunOptions(engine=ENGINE)).cached == ("done",), "the next run computes nothing"
    assert "https://me:***@data.example" in log.read_text() and PASSWORD not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert store.read(f"logs/killed/{log.name}") == log.read_bytes(), "it is uploaded"
    assert list(store.local.glob("logs/.open/*")) == []


def test_next_attempt_on_a_machine_redacts_the_log_of_a_killed_worker(store: Store) -> None:
    """Its driver is on another machine."""
    log = killed(store)
    assert isinstance(run_step(task_spec(toy("other", 2), store), lambda batch: True, ()), Manifest)
    assert PASSWORD not in log.read_text()


def test_log_of_another_machine_is_redacted_when_its_attempt_has_lost_the_lease(store: Store) -> None:
    """On a disk that machines share, the worker may still run."""
    log = killed(store)
    [note] = store.local.glob("logs/.open/*")
    attempt = AttemptLog.read(note)
    slot = store.slot("killed", attempt.fingerprint)
    far = replace(attempt.worker, namespace="far")
    note.write_text(json.dumps(asdict(replace(attempt, worker=far))))
    assert slot.compare_and_swap(attempt.token, Lease(owner=far, token=attempt.token))
    finish_left_logs(store)
    assert PASSWORD in log.read_text(), "it runs"
    assert slot.compare_and_swap(attempt.token, Lease(owner=Owner.current(), token="next"))
    finish_left_logs(store)
    assert PASSWORD not in log.read_text() and not note.exists()


def test_params_of_a_step_are_redacted(store: Store) -> None:
    with Tracker.open(store.local, "films", "run") as tracker:
        tracker.start_step(TrackedStep(name="data/films", fingerprint="f" * 16, params={"path": URL}))
        tracker.end_step("data/films")
    assert runs(store)["data/films"].data.params == {"path": redact(URL)}
