"""MLflow that is down, or refuses a value: the run continues, reports it once, and sends the rest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import TrackingError
from cluster.store.base import Store
from cluster.store.manifest import Manifest
from cluster.tracking import outbox
from cluster.tracking.recorder import LogBatch, MetricPoint
from cluster.tracking.run_logger import artifact_name
from cluster.tracking.tracker import TrackedStep, Tracker
from tests.support.mlflow_helpers import runs

pytestmark = pytest.mark.timeout(300)
PNG = b"\x89PNG"


class Server:
    """An MLflow server on this machine that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/runs.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                return True
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setattr(outbox, "MAX_PAUSE_S", 0.5)
    started = Server(tmp_path)
    started.start()
    yield started
    started.kill()


def step(name: str) -> TrackedStep:
    return TrackedStep(name=name, fingerprint="f" * 64, params={"value": 1})


def manifest(name: str, **fields: Any) -> Manifest:
    return Manifest(
        step=name,
        fingerprint="f" * 64,
        key={},
        files={},
        upstream_digests={},
        result=None,
        metrics={"a": 1.0},
        **fields,
    )


def records(name: str, *steps: int) -> LogBatch:
    points = [MetricPoint("train/loss", 1.0 / (number + 1), number, 1000 + number) for number in steps]
    return LogBatch(name, points=points, figures=[("curve", PNG)])


def test_run_continues_without_its_server_which_gets_everything_later(server: Server, tmp_path: Path) -> None:
    with Tracker.open(tmp_path, "films", "run 1", uri=server.url) as tracker:
        first = tracker.start_step(step("pet/a"))
        assert first is not None
        tracker.log_records(records("pet/a", 0, 1))
        server.kill()
        tracker.log_records(records("pet/a", 2, 3))
        tracker.end_step("pet/a", "FINISHED", manifest("pet/a"))
        assert tracker.start_step(step("pet/b")) is None, "a step does not wait for a server that is down"
        tracker.end_step("pet/b", "FAILED")
        assert tracker.start_step(step("pet/b"), 2) is None
        tracker.log_records(records("pet/b", 0))
        tracker.end_step("pet/b", "FINISHED", manifest("pet/b"))
        assert tracker.log_cached(step("data"), manifest("data", run_id=first)) is None
        problems = tracker.new_problems()
        assert len(problems) == 1 and problems[0].startswith(f"MLflow at {server.url} does not answer (")
        assert tracker.new_problems() == [], "it is reported once"
        server.start()
    assert tracker.new_problems() == []
    experiment = tracker.client.get_experiment_by_name("films")
    by_name = {run.info.run_name: run for run in tracker.client.search_runs([experiment.experiment_id])}
    assert sorted(by_name) == ["data", "pet", "pet/a", "pet/b", "run 1"], "each run was created once"
    assert {run.info.status for run in by_name.values()} == {"FINISHED"}
    assert by_name["pet/a"].info.run_id == first
    curve = tracker.client.get_metric_history(first, "train/loss")
    assert [point.step for point in curve] == [0, 1, 2, 3]
    assert by_name["pet/b"].data.tags["mlflow.parentRunId"] == by_name["pet"].info.run_id
    assert by_name["pet/b"].data.tags["step.attempt"] == "2"
    assert by_name["pet"].data.metrics["step/count"] == 2
    assert first in by_name["data"].data.tags["mlflow.note.content"]
    assert [item.path for item in tracker.client.list_artifacts(first, "figures")] == ["figures/curve.png"]


def test_run_ends_without_a_server_that_stays_away(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "DELIVER_WITHIN_S", 1.0)
    with Tracker.open(tmp_path, "films", "run 1", uri=server.url) as tracker:
        server.kill()
        tracker.start_step(step("a"))
        tracker.end_step("a", "FINISHED", manifest("a"))
    down, lost = tracker.new_problems()
    assert "does not answer" in down
    assert lost.endswith(f"records of this run were not sent to MLflow at {server.url}.")


def test_refused_value_costs_no_other_value(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSE_S", 0.01)
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_params({"rate": 1})
        tracker.parent.log_params({"a": 1, "rate": 2, "b": 2, "c": 3})
        tracker.parent.log_metrics({"accuracy": 0.5})
    assert runs(store)["run 1"].data.params == {"rate": "1", "a": "1", "b": "2", "c": "3"}
    assert runs(store)["run 1"].data.metrics == {"accuracy": 0.5}
    (problem,) = tracker.new_problems()
    assert "refused a record" in problem


def test_figures_with_any_names_are_logged(store: Store) -> None:
    names = ["a/../../b", "/top", "..", "", "a//b", "odd name: {}", "标签", "a/b"]
    with Tracker.open(store.root, "films", "run 1") as tracker:
        run_id = tracker.start_step(step("a"))
        tracker.log_records(LogBatch("a", figures=[(name, PNG) for name in names]))
        tracker.end_step("a")
    assert tracker.new_problems() == []
    figures = store.root / "mlartifacts" / str(run_id) / "artifacts" / "figures"
    assert len(list(figures.rglob("*.png"))) == len({artifact_name(name) for name in names})
    assert not list(figures.parent.glob("*.png"))


def test_error_of_a_wrong_address_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="MLflow at nonsense://host cannot be used"):
        Tracker.open(tmp_path, "films", "run 1", uri="nonsense://host")
