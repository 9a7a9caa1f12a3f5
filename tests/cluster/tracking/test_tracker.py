"""MLflow runs of a pipeline, in an sqlite database."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import TrackingError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.location import open_store
from cluster.store.manifest import Manifest
from cluster.tracking.recorder import LogBatch, MetricPoint
from cluster.tracking.tracker import TrackedStep, Tracker
from stages.common.engine import ENGINE
from tests.support.mlflow_helpers import client, runs
from tests.support.steps import picture, toy

pytestmark = pytest.mark.timeout(120)
FINGERPRINT = "f" * 64


def step(name: str, **params: Any) -> TrackedStep:
    return TrackedStep(name=name, fingerprint=FINGERPRINT, params=params)


def run_tracked(leaf: Step | list[Step], store: Store, name: str) -> RunResult:
    with Tracker.open(store.root, "films", name, tags={"recipe": "toy"}) as tracker:
        return execute(
            leaf if isinstance(leaf, list) else [leaf], store, RunOptions(engine=ENGINE, poll_s=0.05), tracker
        )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_executed_step_is_a_child_with_params_curves_figures_and_tables(store: Store) -> None:
    leaf = toy("pet/p/0", 4, fn=picture, base=toy("data", 2))
    result = run_tracked(leaf, store, "run 1")
    by_name = runs(store)
    parent, child = by_name["run 1"], by_name["pet/p/0"]
    group = by_name["pet"]
    assert parent.info.status == group.info.status == child.info.status == "FINISHED"
    assert parent.data.tags["recipe"] == "toy"
    assert child.data.tags["mlflow.parentRunId"] == group.info.run_id
    assert group.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert by_name["data"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["step.status"] == "executed"
    assert child.data.tags["step.kind"] == "pet"
    assert child.data.tags["step.fingerprint"] == result.steps["pet/p/0"].fingerprint
    assert child.data.tags["outbox.id"] == result.steps["pet/p/0"].run_id == result.manifests["pet/p/0"].run_id
    assert child.data.params == {"value": "4"}
    curve = client(store).get_metric_history(child.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(step, 1 / (step + 1)) for step in range(2500)]
    artifacts = store.root / "mlartifacts" / child.info.run_id / "artifacts"
    assert (artifacts / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '"columns":["text","count"]' in (artifacts / "tables" / "errors.json").read_text()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_cached_steps_are_rows_of_a_table_with_the_runs_that_computed_them(store: Store) -> None:
    leaves = [toy("data", 2), toy("pet/p/0", 3)]
    first = run_tracked(leaves, store, "run 1")
    second = run_tracked(leaves, store, "run 2")
    assert [result.run_id for result in second.steps.values()] == [None, None]
    assert second.steps["data"].source_run_id == first.steps["data"].run_id is not None
    by_name = runs(store)
    assert set(by_name) == {"run 1", "data", "pet/p/0", "pet", "run 2"}
    assert by_name["data"].data.tags["outbox.id"] == first.steps["data"].run_id, "a cached step has no run of its own"
    artifacts = store.root / "mlartifacts" / by_name["run 2"].info.run_id / "artifacts"
    table = json.loads((artifacts / "tables" / "cached_steps.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["step"], row["kind"], row["run"]) for row in rows] == [
        (name, kind, first.steps[name].run_id) for name, kind in (("data", "data"), ("pet/p/0", "pet"))
    ]
    manifest = second.manifests["data"]
    assert (rows[0]["seconds"], rows[0]["fingerprint"]) == (manifest.seconds, manifest.fingerprint)
    assert "cached_steps.json" in by_name["run 2"].data.tags["mlflow.loggedArtifacts"]


def test_cached_step_has_the_measures_of_its_manifest(store: Store) -> None:
    manifest = Manifest(
        step="a", fingerprint=FINGERPRINT, key={}, files={}, upstream_digests={}, result=None,
        metrics={"test/accuracy": 0.75, "train/loss": 1.0}, seconds=2.0,
    )  # fmt: skip
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.log_cached(step("a"), manifest)
    (table,) = store.root.glob("mlartifacts/*/artifacts/tables/cached_steps.json")
    columns = ["step", "kind", "accuracy", "macro_f1", "seconds", "fingerprint", "run"]
    assert json.loads(table.read_text()) == {
        "columns": columns, "data": [["a", "a", 0.75, None, 2.0, FINGERPRINT, ""]]
    }  # fmt: skip


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_group_has_mean_and_std_of_executed_and_cached_steps(store: Store) -> None:
    run_tracked(toy("pet/p/0", 2), store, "run 1")
    result = run_tracked([toy("pet/p/0", 2), toy("pet/p/1", 4)], store, "run 2")
    assert (result.cached, result.executed) == (("pet/p/0",), ("pet/p/1",))
    group = runs(store)["pet"]
    values = [result.manifests[name].metrics["toy/value"] for name in ("pet/p/0", "pet/p/1")]
    assert group.data.metrics["toy/value"] == sum(values) / 2
    assert group.data.metrics["toy/value_std"] == pytest.approx(abs(values[1] - values[0]) / 2**0.5)
    assert group.data.metrics["step/count"] == 2
    assert group.data.tags["step.status"] == "group"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_group_has_the_worst_status_of_its_steps(store: Store) -> None:
    run_tracked([toy("pet/p/0", fail="plain"), toy("pet/p/1", 1)], store, "run 1")
    group = runs(store)["pet"]
    assert group.info.status == "FAILED"
    assert group.data.metrics["step/count"] == 1


def test_attempt_continues_the_run_of_the_previous_one_and_replaces_its_tables(store: Store) -> None:
    def attempt(name: str, optimizer_steps: range, status: str, attempt_number: int) -> str:
        with Tracker.open(store.root, "films", name) as tracker:
            tracker.start_step(step("pet/p/0", value=1), attempt_number)
            points = [
                MetricPoint("train/loss", 1.0 / (number + 1), number, 1000 + number) for number in optimizer_steps
            ]
            tracker.log_records(
                LogBatch("pet/p/0", points=points, tables=[("errors", [{"text": "a", "count": attempt_number}])])
            )
            tracker.end_step("pet/p/0", status)
        return str(runs(store)["pet/p/0"].info.run_id)

    first = attempt("run 1", range(3), "KILLED", 1)
    assert runs(store)["pet"].info.status == "KILLED"
    assert attempt("run 2", range(3, 5), "FINISHED", 2) == first
    child, parents = runs(store)["pet/p/0"], {key: run.info.run_id for key, run in runs(store).items()}
    assert child.info.status == "FINISHED" and child.data.tags["step.attempt"] == "2"
    assert child.data.tags["mlflow.parentRunId"] == parents["pet"], "it is shown in the latest run"
    assert "Started in [an earlier run]" in child.data.tags["mlflow.note.content"]
    curve = client(store).get_metric_history(first, "train/loss")
    assert [point.step for point in curve] == [0, 1, 2, 3, 4]
    table = store.root / "mlartifacts" / first / "artifacts" / "tables" / "errors.json"
    assert json.loads(table.read_text()) == {"columns": ["text", "count"], "data": [["a", 2]]}
    assert attempt("run 3", range(2), "FINISHED", 1) != first, "a finished run is not continued"


def test_run_is_found_by_the_id_of_a_manifest(store: Store) -> None:
    with Tracker.open(store.root, "films", "run 1") as tracker:
        run = tracker.next_run("a", FINGERPRINT)
        tracker.start_step(step("a"), run=run)
        tracker.end_step("a", "FAILED")
        assert tracker.next_run("a", FINGERPRINT) == run, "the next attempt continues it"
        assert tracker.next_run("a", "0" * 64) != run != tracker.next_run("b", FINGERPRINT)
    with Tracker.open(store.root, "books", "another recipe on the same store") as tracker:
        tracker.deliver()
        found = tracker.find_run(str(run))
        assert found == runs(store)["a"].info.run_id
        assert tracker.find_run(found) == found, "older manifests have this id"
        tracker.client.delete_run(found)
        assert tracker.find_run(str(run)) is tracker.find_run(found) is tracker.find_run("0" * 32) is None


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_run_of_a_failed_step_is_failed(store: Store) -> None:
    run_tracked([toy("bad", fail="plain"), toy("good", 1)], store, "run 1")
    by_name = runs(store)
    assert by_name["bad"].info.status == "FAILED"
    assert by_name["good"].info.status == "FINISHED"


def test_caller_logs_to_the_parent_run(store: Store) -> None:
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_params(
            {"long": "x" * 9000, "odd key {}": [1, 2], **{f"p{index}": index for index in range(250)}}
        )
        tracker.parent.log_metrics({"accuracy": 0.5})
        tracker.parent.log_text("plan.md", "all")
        tracker.parent.log_table("leaderboard", [{"method": "student", "accuracy": 0.8}])
        tracker.parent.describe("# films\n\n" + "a line of fifty characters, more or less, no more\n" * 300)
    run = runs(store)["run 1"]
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("# films") and note.endswith("no more") and 4900 < len(note) <= 5000
    kind = client(store).get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"
    assert len(run.data.params) == 252
    assert run.data.params["odd key __"] == "[1,2]" and run.data.params["long"].endswith("...")
    assert run.data.metrics == {"accuracy": 0.5}


def test_error_in_the_driver_fails_the_parent_run(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.start_step(step("a"))
        raise ZeroDivisionError
    by_name = runs(store)
    assert by_name["run 1"].info.status == "FAILED"
    assert by_name["a"].info.status == "KILLED"


KILLED_DRIVER = """
import os, sys
from pathlib import Path
from cluster.tracking.recorder import LogBatch, MetricPoint
from cluster.tracking.tracker import TrackedStep, Tracker

tracker = Tracker.open(Path(sys.argv[1]), "films", "killed")
for name in "ab":
    tracker.start_step(TrackedStep(name=name, fingerprint="f" * 64, params={"value": 1}))
    if name == "a":
        tracker.deliver()
for number in range(200):
    tracker.log_records(LogBatch("a", points=[MetricPoint("train/loss", 0.5, number, 1000 + number)]))
    tracker.parent.log_text(f"{number}.txt", "all")
tracker.end_step("b")
os._exit(9)
"""


def test_next_driver_ends_and_continues_the_runs_of_a_killed_driver(store: Store) -> None:
    subprocess.run([sys.executable, "-c", KILLED_DRIVER, str(store.root)], check=False)
    first = runs(store)["a"].info.run_id
    assert runs(store)["killed"].info.status == "RUNNING"
    assert list((store.root / "outbox").iterdir()), "it was killed while it sent records"
    with Tracker.open(store.root, "films", "next") as tracker:
        tracker.start_step(step("a", value=1), 2)
        tracker.end_step("a")
    by_name = runs(store)
    assert by_name["a"].info.run_id == first
    assert {name: run.info.status for name, run in by_name.items()} == {
        "killed": "KILLED", "a": "FINISHED", "b": "FINISHED", "next": "FINISHED"
    }  # fmt: skip
    artifacts = store.root / "mlartifacts" / by_name["killed"].info.run_id / "artifacts"
    assert len(list(artifacts.glob("*.txt"))) == 200, "what waited in the file was sent"
    assert not list((store.root / "outbox").iterdir())


def test_open_rejects_a_relative_address(store: Store) -> None:
    with pytest.raises(TrackingError, match="four slashes"):
        Tracker.open(store.root, "films", "run", uri="sqlite:///mlflow.db")


def test_moved_store_starts_a_new_experiment(store: Store, tmp_path: Path) -> None:
    Tracker.open(store.root, "films", "run 1").close()
    moved = open_store(tmp_path / "elsewhere")
    shutil.move(store.root, moved.root)
    with Tracker.open(moved.root, "films", "run 2") as tracker:
        tracker.parent.log_text("plan.md", "all")
    assert not store.root.exists()
    assert list((moved.root / "mlartifacts").glob("*/artifacts/plan.md"))
    assert list(runs(moved)) == ["run 2"]


def test_tracker_prints_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.tracking.tracker import Tracker;"
        "Tracker.open(Path(sys.argv[1]), 'films', 'run').close()"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert process.stdout == process.stderr == ""
