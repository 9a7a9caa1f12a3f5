"""MLflow that is down, full or slow, or refuses a value: the run continues, reports it once and sends the rest."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from cluster.errors import TrackingError
from cluster.store.base import Store
from cluster.store.lease import Leases
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.tracking import outbox
from cluster.tracking import tracker as tracker_module
from cluster.tracking.delivery import Delivery, UnavailableError
from cluster.tracking.recorder import LogBatch, MetricPoint
from cluster.tracking.run_logger import Dataset, artifact_name
from cluster.tracking.server import Destination, client_of, tracking_uri
from cluster.tracking.spool import Spool, waiting
from cluster.tracking.sync import fetch_waiting, hand_over_waiting
from cluster.tracking.tracker import TrackedStep, Tracker
from pipelines.cli.app import app
from tests.support.mlflow_helpers import runs
from tests.support.mlflow_server import MlflowServer

pytestmark = pytest.mark.timeout(300)
PNG = b"\x89PNG"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setattr(outbox, "MAX_PAUSE_S", 0.5)
    server = MlflowServer(tmp_path)
    yield server
    server.kill()


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


def test_run_continues_without_its_server_which_gets_everything_later(server: MlflowServer, tmp_path: Path) -> None:
    server.start()
    with Tracker.open(tmp_path, "films", "run 1", uri=server.url) as tracker:
        run = tracker.next_run("pet/a", "f" * 64)
        tracker.start_step(step("pet/a"), run=run)
        tracker.deliver()
        first = tracker.find_run(run)
        tracker.log_records(records("pet/a", 0, 1))
        server.kill()
        tracker.log_records(records("pet/a", 2, 3))
        tracker.end_step("pet/a", "FINISHED", manifest("pet/a"))
        started = time.monotonic()
        tracker.start_step(step("pet/b"))
        tracker.end_step("pet/b", "FAILED")
        tracker.start_step(step("pet/b"), 2)
        assert time.monotonic() - started < 1.0, "a step does not wait for a server that is down"
        tracker.log_records(records("pet/b", 0))
        tracker.end_step("pet/b", "FINISHED", manifest("pet/b"))
        tracker.log_cached(step("data"), manifest("data", run_id=run))
        wait_for_problem(tracker, f"MLflow at {server.url} cannot be used now (")
        time.sleep(1.5)  # more than two further attempts
        assert tracker.new_problems() == [], "it is reported once"
        server.start()
    assert tracker.new_problems() == []
    experiment = tracker.client.get_experiment_by_name("films")
    by_name = {run.info.run_name: run for run in tracker.client.search_runs([experiment.experiment_id])}
    assert sorted(by_name) == ["pet", "pet/a", "pet/b", "run 1"], "each run was created once"
    assert {run.info.status for run in by_name.values()} == {"FINISHED"}
    assert by_name["pet/a"].info.run_id == first
    curve = tracker.client.get_metric_history(first, "train/loss")
    assert [point.step for point in curve] == [0, 1, 2, 3]
    assert by_name["pet/b"].data.tags["mlflow.parentRunId"] == by_name["pet"].info.run_id
    assert by_name["pet/b"].data.tags["step.attempt"] == "2"
    assert by_name["pet"].data.metrics["step/count"] == 2
    assert [item.path for item in tracker.client.list_artifacts(first, "figures")] == ["figures/curve.png"]


def test_a_request_that_times_out_is_repeated_by_the_outbox_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client would send it again without a look at the server, which may have created the run."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = client_of(f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with pytest.raises(MlflowException, match="timed out"):
            client.create_run("0")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.slow
def test_records_of_a_run_without_a_server_are_sent_by_sync_and_by_the_next_run(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "DELIVER_WITHIN_IF_DOWN_S", 0.1)
    for number in (1, 2):
        with Tracker.open(tmp_path, "films", f"run {number}", uri=server.url) as tracker:
            tracker.start_step(step("a"), number)
            tracker.log_records(records("a", number))
            tracker.end_step("a", "FAILED" if number == 1 else "FINISHED", manifest("a"))
        down, waiting = tracker.new_problems()
        assert "cannot be used now" in down
        assert waiting.endswith(f"wait for MLflow at {server.url}. `clozeline sync` or the next run sends them.")
    for thread in threading.enumerate():
        if thread.name == "outbox":  # its last request may still wait, and has the records
            thread.join(60)
    away = sync(tmp_path)
    assert away.exit_code == 1 and away.output.count("waiting ") == 2, "those of one server stay in order"
    server.start()
    with Tracker.open(tmp_path, "films", "run 3", uri=server.url) as tracker:
        tracker.deliver()
        assert set(runs_of(tracker)) == {"run 1", "a", "run 2", "run 3"}
        server.kill()
        tracker.parent.log_params({"late": 1})
    assert list((tmp_path / "outbox").iterdir())
    server.start()
    sent = sync(tmp_path)
    assert sent.exit_code == 0 and sent.output.count("sent ") == 1 and "films/" in sent.output, sent.output
    assert sync(tmp_path).output == "MLflow has all records of this store.\n"
    by_name = runs_of(tracker)
    assert set(by_name) == {"run 1", "a", "run 2", "run 3"}, "the second attempt continues the run of the first"
    assert {run.info.status for run in by_name.values()} == {"FINISHED"}
    assert by_name["run 3"].data.params == {"late": "1"}
    curve = tracker.client.get_metric_history(by_name["a"].info.run_id, "train/loss")
    assert [point.step for point in curve] == [1, 2]
    assert by_name["a"].data.tags["mlflow.parentRunId"] == by_name["run 2"].info.run_id
    started, ended = by_name["run 1"].info.start_time, by_name["run 1"].info.end_time
    assert 0 <= ended - started < 60_000 and ended <= by_name["run 2"].info.start_time, "times are those of the run"


def test_records_that_are_sent_twice_have_the_effect_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    record_without_server(once, monkeypatch)
    shutil.copytree(once / "outbox", twice / "outbox")
    for folder, is_killed in ((once, False), (twice, True)):
        (spool,) = waiting(folder / "outbox")
        records = spool.num_left() - 1
        spool.close()
        for _ in range(records):
            # Each driver is killed after MLflow has a record, and before it knows.
            for is_acknowledged in (False, True) if is_killed else (True,):
                (spool,) = waiting(folder / "outbox")
                if not is_acknowledged:
                    monkeypatch.setattr(spool, "acknowledge", lambda: None)
                delivery = Delivery(spool, Destination(folder, "films"), pytest.fail)
                if spool.read()["kind"] == "open":
                    Spool.acknowledge(spool)
                assert delivery.send_next()
                spool.close()
    assert contents(twice) == contents(once)
    assert [name for name, *_ in contents(once)] == ["a", "pet", "pet/b", "run 1"]


def test_outbox_waits_for_a_database_and_a_disk_that_are_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_PAUSE_S", 0.5)
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.deliver()
        files = store.root / "mlartifacts"
        files.write_text("A file instead of a folder, so nothing can be written below it.")
        tracker.parent.log_text("plan.md", "all")
        wait_for_problem(tracker, "Not a directory")
        files.unlink()
        tracker.deliver()
        database = sqlite3.connect(store.root / "mlflow.db")
        database.execute("BEGIN EXCLUSIVE")
        tracker.parent.log_metrics({"accuracy": 0.5})
        wait_for_problem(tracker, "locked")
        database.rollback()
        tracker.deliver()
    assert runs(store)["run 1"].data.metrics == {"accuracy": 0.5}
    assert [path.read_text() for path in files.glob("*/artifacts/plan.md")] == ["all"]
    assert tracker.new_problems() == []


def test_records_move_with_a_store_at_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "first machine"))
    first = open_store("memory://outbox")
    record_without_server(first.local, monkeypatch)
    hand_over_waiting(first)
    assert not any((first.local / "outbox").iterdir())
    monkeypatch.setenv("CLOZELINE_CACHE", str(tmp_path / "second machine"))
    second = open_store("memory://outbox")
    (name,) = second.notes("outbox")
    with Leases() as leases:
        fetch_waiting(second, leases)
        fetch_waiting(second, leases)
    assert second.notes("outbox") == []
    (spool,) = waiting(second.local / "outbox")
    assert spool.folder.name == name and spool.num_left() > 10
    spool.close()


def test_sending_takes_a_tenth_of_the_time_until_someone_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent_at_s: list[float] = []
    monkeypatch.setattr(Delivery, "send_next", lambda _: use_cpu(0.01) or sent_at_s.append(time.monotonic()))
    monkeypatch.setattr(outbox.Outbox, "_clean_up", lambda _: None)
    box = outbox.Outbox(Destination(tmp_path, "films"), object())  # type: ignore[arg-type]
    for number in range(60):
        box.add("batch", "run", params=[["a", str(number)]])
    time.sleep(1.0)
    num_sent = len(sent_at_s)
    assert num_sent >= 1
    assert sent_at_s[num_sent - 1] - sent_at_s[0] >= 0.9 * 0.1 * (num_sent - 1), "each took 10 ms, and a pause of 90 ms"
    assert box.num_waiting >= 45
    box.close()
    assert len(sent_at_s) == 60
    pauses = [later - earlier for earlier, later in pairwise(sent_at_s[num_sent + 1 :])]
    assert statistics.median(pauses) < 0.09, "the end of a run waits for no pause"


def test_records_that_wait_for_long_are_sent_without_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Delivery, "send_next", lambda _: use_cpu(0.01))
    monkeypatch.setattr(outbox.Outbox, "_clean_up", lambda _: None)
    monkeypatch.setattr(outbox, "MAX_SHARE", 1e-6)
    monkeypatch.setattr(outbox, "MAX_LAG_S", 0.0)
    box = outbox.Outbox(Destination(tmp_path, "films"), object())  # type: ignore[arg-type]
    for number in range(5):
        box.add("batch", "run", params=[["a", str(number)]])
    until = time.monotonic() + 60
    while box.num_waiting:
        assert time.monotonic() < until
        time.sleep(0.01)
    box.close()


def test_a_run_that_was_stopped_leaves_its_records_to_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "DELIVER_WITHIN_IF_STOPPED_S", 0.2)
    monkeypatch.setattr(outbox.Outbox, "_clean_up", lambda _: None)
    with monkeypatch.context() as slow:
        slow.setattr(Delivery, "send_next", lambda _: time.sleep(0.05))
        with pytest.raises(KeyboardInterrupt), Tracker.open(tmp_path, "films", "stopped") as tracker:
            for number in range(100):
                tracker.parent.log_params({f"p{number}": number})
            started = time.monotonic()
            raise KeyboardInterrupt
        assert time.monotonic() - started < 3.0
    (problem,) = tracker.new_problems()
    assert "records of this run wait for MLflow" in problem
    assert sync(tmp_path).exit_code == 0
    assert runs_of(tracker)["stopped"].info.status == "KILLED"


def use_cpu(seconds: float) -> None:
    """Computes for so much CPU time of this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def record_without_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records a run for the database of a store, none of which is sent."""
    monkeypatch.setattr(outbox, "DELIVER_WITHIN_IF_DOWN_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "send_next", unavailable)
        with Tracker.open(folder, "films", "run 1") as tracker:
            tracker.parent.log_params({"rate": 1})
            for name in ("pet/b", "a"):
                tracker.start_step(step(name))
                tracker.log_records(records(name, 0, 1))
                tracker.log_records(LogBatch(name, tables=[("errors", [{"text": "x"}])]))
                tracker.parent.log_datasets([Dataset(name=name, digest="0", context="train", address="/x")])
                tracker.end_step(name, "FAILED")
                tracker.start_step(step(name), 2)
                tracker.end_step(name, "FINISHED", manifest(name))


def unavailable(_: Delivery) -> bool:
    raise UnavailableError("it is away")


def contents(folder: Path) -> list[tuple[Any, ...]]:
    """Returns everything that a database and its files have of each run, by name."""
    client = MlflowClient(tracking_uri(folder))
    experiment = client.get_experiment_by_name("films")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.run_name ASC"])
    names = {run.info.run_id: run.info.run_name for run in found}
    return [
        (
            run.info.run_name, run.info.status, run.info.start_time, run.info.end_time, run.data.params,
            {key: names.get(value, value) for key, value in run.data.tags.items()},
            {key: [(item.step, item.value, item.timestamp) for item in client.get_metric_history(run.info.run_id, key)]
             for key in run.data.metrics},
            sorted(item.dataset.name for item in run.inputs.dataset_inputs),
            {str(path.relative_to(folder / "mlartifacts" / run.info.run_id)): path.read_bytes()
             for path in (folder / "mlartifacts" / run.info.run_id).rglob("*.*")},
        )
        for run in found
    ]  # fmt: skip


def runs_of(tracker: Tracker) -> dict[str, Any]:
    """Returns the runs on the server by name, oldest first."""
    experiment = tracker.client.get_experiment_by_name("films")
    found = tracker.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    assert len({run.info.run_name for run in found}) == len(found), "each run was created once"
    return {run.info.run_name: run for run in found}


def sync(store: Path) -> Any:
    return CliRunner().invoke(app, ["sync", "--store", str(store)], catch_exceptions=False)


def wait_for_problem(tracker: Tracker, text: str) -> None:
    until = time.monotonic() + 60
    while not (problems := tracker.new_problems()):
        assert time.monotonic() < until
        time.sleep(0.05)
    (problem,) = problems
    assert text in problem


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
        tracker.start_step(step("a"))
        tracker.log_records(LogBatch("a", figures=[(name, PNG) for name in names]))
        tracker.end_step("a")
    assert tracker.new_problems() == []
    figures = store.root / "mlartifacts" / runs(store)["a"].info.run_id / "artifacts" / "figures"
    assert len(list(figures.rglob("*.png"))) == len({artifact_name(name) for name in names})
    assert not list(figures.parent.glob("*.png"))


def test_error_of_a_wrong_address_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="MLflow at nonsense://host cannot be used"):
        Tracker.open(tmp_path, "films", "run 1", uri="nonsense://host")


def test_error_of_a_store_that_cannot_be_written_names_it(store: Store) -> None:
    store.root.mkdir()
    (store.root / "outbox").write_text("a file where a folder must be")
    with pytest.raises(TrackingError, match="the records for MLflow cannot be written below"):
        Tracker.open(store.root, "films", "run 1")
