"""Secrets in URLs reach neither logs nor errors nor MLflow."""

from pathlib import Path

import pytest

from cluster.redaction import redact
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.step import Resources
from cluster.store.base import Store
from cluster.tracking.run_logger import Dataset
from cluster.tracking.tracker import TrackedStep, Tracker
from stages.common.engine import ENGINE
from tests.support.mlflow_helpers import runs
from tests.support.steps import toy

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


def test_params_of_a_step_are_redacted(store: Store) -> None:
    with Tracker.open(store.local, "films", "run") as tracker:
        tracker.start_step(TrackedStep(name="data/films", fingerprint="f" * 16, params={"path": URL}))
        tracker.end_step("data/films")
    assert runs(store)["data/films"].data.params == {"path": redact(URL)}
