"""MLflow runs, in a real sqlite database."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import TrackingError
from cluster.run.result import RunOptions, RunResult
from cluster.run.scheduler import execute
from cluster.steps.step import Step
from cluster.store.base import Store
from cluster.store.location import open_store
from cluster.tracking.mlflow_names import metric_key
from cluster.tracking.recorder import LogBatch, MetricPoint
from cluster.tracking.run_logger import Dataset
from cluster.tracking.tracker import Tracker, tracking_uri
from tests.support.steps import picture, toy

pytestmark = pytest.mark.timeout(120)


def client(store: Store) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri(store.root))


def runs(store: Store, experiment: str = "films") -> dict[str, Any]:
    """Runs by name, the latest first."""
    found = client(store)
    about = found.get_experiment_by_name(experiment)
    listed = found.search_runs([about.experiment_id], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: run for run in listed}


def tracked(leaf: Step | list[Step], store: Store, name: str) -> RunResult:
    with Tracker.open(store.root, "films", name, tags={"recipe": "toy"}) as tracker:
        return execute(leaf if isinstance(leaf, list) else [leaf], store, RunOptions(poll_s=0.05), tracker)


@pytest.mark.usefixtures("ray_session")
def test_executed_steps_are_children_with_params_curves_pictures_tables(store: Store) -> None:
    leaf = toy("pet/p/0", 4, fn=picture, base=toy("data", 2))
    outcome = tracked(leaf, store, "run 1")
    found = runs(store)
    parent, child = found["run 1"], found["pet/p/0"]
    group = found["pet"]
    assert parent.info.status == group.info.status == child.info.status == "FINISHED"
    assert parent.data.tags["recipe"] == "toy"
    assert child.data.tags["mlflow.parentRunId"] == group.info.run_id
    assert group.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found["data"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["step.status"] == "executed"
    assert child.data.tags["step.kind"] == "pet"
    assert child.data.tags["step.fingerprint"] == outcome.steps["pet/p/0"].fingerprint
    assert child.info.run_id == outcome.steps["pet/p/0"].run_id == outcome.manifests["pet/p/0"].run_id
    assert child.data.params == {"value": "4"}
    curve = client(store).get_metric_history(child.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(step, 1 / (step + 1)) for step in range(2500)]
    artifacts = store.root / "mlartifacts" / child.info.run_id / "artifacts"
    assert (artifacts / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '"columns":["text","count"]' in (artifacts / "tables" / "errors.json").read_text()


@pytest.mark.usefixtures("ray_session")
def test_cached_steps_show_their_figures_and_their_source(store: Store) -> None:
    first = tracked(toy("data", 2), store, "run 1")
    second = tracked(toy("data", 2), store, "run 2")
    child = runs(store)["data"]
    assert child.info.run_id == second.steps["data"].run_id != first.steps["data"].run_id
    assert child.info.status == "FINISHED"
    assert child.data.tags["step.status"] == "cached"
    assert child.data.tags["step.source_run_id"] == first.steps["data"].run_id
    assert child.data.params == {"value": "2"}
    assert child.data.metrics["toy/value"] == 3
    assert second.steps["data"].source_run_id == first.steps["data"].run_id
    assert f"/runs/{first.steps['data'].run_id})" in child.data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("ray_session")
def test_a_cached_step_whose_run_another_server_has_is_shown_without_a_link(store: Store) -> None:
    first = execute([toy("data", 2)], store, RunOptions(poll_s=0.05), None)
    manifest = replace(first.manifests["data"], run_id="0" * 32)
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.cached_step("data", manifest, {})
    child = runs(store)["data"]
    assert child.data.tags["step.source_run_id"] == "0" * 32
    assert "not on this tracking server" in child.data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("ray_session")
def test_a_group_has_mean_and_std_of_its_steps_executed_or_cached(store: Store) -> None:
    tracked(toy("pet/p/0", 2), store, "run 1")
    outcome = tracked([toy("pet/p/0", 2), toy("pet/p/1", 4)], store, "run 2")
    assert (outcome.cached, outcome.executed) == (("pet/p/0",), ("pet/p/1",))
    group = runs(store)["pet"]
    values = [outcome.manifests[name].metrics["toy/value"] for name in ("pet/p/0", "pet/p/1")]
    assert group.data.metrics["toy/value"] == sum(values) / 2
    assert group.data.metrics["toy/value_std"] == pytest.approx(abs(values[1] - values[0]) / 2**0.5)
    assert group.data.metrics["step/count"] == 2
    assert group.data.tags["step.status"] == "group"


@pytest.mark.usefixtures("ray_session")
def test_a_group_ends_as_badly_as_its_worst_step(store: Store) -> None:
    tracked([toy("pet/p/0", fail="plain"), toy("pet/p/1", 1)], store, "run 1")
    group = runs(store)["pet"]
    assert group.info.status == "FAILED"
    assert group.data.metrics["step/count"] == 1


def test_an_attempt_continues_the_run_of_the_one_before_and_replaces_its_tables(store: Store) -> None:
    def attempt(name: str, steps: range, status: str, number: int) -> str:
        with Tracker.open(store.root, "films", name) as tracker:
            run_id = tracker.start_step("pet/p/0", "f" * 64, {"value": 1}, number)
            points = [MetricPoint("train/loss", 1.0 / (step + 1), step, 1000 + step) for step in steps]
            tracker.log_records(
                LogBatch("pet/p/0", points=points, tables=[("errors", [{"text": "a", "count": number}])])
            )
            tracker.end_step("pet/p/0", status)
        return run_id

    first = attempt("run 1", range(3), "KILLED", 1)
    assert runs(store)["pet"].info.status == "KILLED"
    assert attempt("run 2", range(3, 5), "FINISHED", 2) == first
    child, parents = runs(store)["pet/p/0"], {key: run.info.run_id for key, run in runs(store).items()}
    assert child.info.status == "FINISHED" and child.data.tags["step.attempt"] == "2"
    assert child.data.tags["mlflow.parentRunId"] == parents["pet"], "it is shown in the latest run"
    assert "Begun in [an earlier run]" in child.data.tags["mlflow.note.content"]
    curve = client(store).get_metric_history(first, "train/loss")
    assert [point.step for point in curve] == [0, 1, 2, 3, 4]
    table = store.root / "mlartifacts" / first / "artifacts" / "tables" / "errors.json"
    assert json.loads(table.read_text()) == {"columns": ["text", "count"], "data": [["a", 2]]}
    assert attempt("run 3", range(2), "FINISHED", 1) != first, "a finished run is not touched"


@pytest.mark.usefixtures("ray_session")
def test_failed_step_ends_as_failed(store: Store) -> None:
    tracked([toy("bad", fail="plain"), toy("good", 1)], store, "run 1")
    found = runs(store)
    assert found["bad"].info.status == "FAILED"
    assert found["good"].info.status == "FINISHED"


def test_parent_takes_what_the_caller_logs(store: Store) -> None:
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_params(
            {"long": "x" * 9000, "odd key {}": [1, 2], **{f"p{index}": index for index in range(250)}}
        )
        tracker.parent.log_metrics({"accuracy": 0.5})
        tracker.parent.log_text("plan.md", "all")
        tracker.parent.log_table("leaderboard", [{"row": "student", "accuracy": 0.8}])
        tracker.parent.describe("# films\n\n" + "a line of fifty characters, more or less, no more\n" * 300)
    run = runs(store)["run 1"]
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("# films") and note.endswith("no more") and 4900 < len(note) <= 5000
    kind = client(store).get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"
    assert len(run.data.params) == 252
    assert run.data.params["odd key __"] == "[1,2]" and run.data.params["long"].endswith("...")
    assert run.data.metrics == {"accuracy": 0.5}


def test_error_in_the_driver_fails_the_parent(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.start_step("a", "f" * 64, {})
        raise ZeroDivisionError
    found = runs(store)
    assert found["run 1"].info.status == "FAILED"
    assert found["a"].info.status == "KILLED"


def test_runs_of_a_killed_driver_are_ended_by_the_next_one(store: Store) -> None:
    code = (
        "import os, sys; from pathlib import Path; from cluster.tracking.tracker import Tracker;"
        "t = Tracker.open(Path(sys.argv[1]), 'films', 'killed'); t.start_step('a', 'f' * 64, {}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=False)
    assert runs(store)["killed"].info.status == "RUNNING"
    Tracker.open(store.root, "films", "next").close()
    found = runs(store)
    assert found["killed"].info.status == found["a"].info.status == "KILLED"
    assert found["next"].info.status == "FINISHED"


def test_relative_address_is_refused(store: Store) -> None:
    with pytest.raises(TrackingError, match="four slashes"):
        Tracker.open(store.root, "films", "run", uri="sqlite:///mlflow.db")


def test_moved_store_begins_a_new_experiment_beside_its_files(store: Store, tmp_path: Path) -> None:
    Tracker.open(store.root, "films", "run 1").close()
    moved = open_store(tmp_path / "elsewhere")
    shutil.move(store.root, moved.root)
    with Tracker.open(moved.root, "films", "run 2") as tracker:
        tracker.parent.log_text("plan.md", "all")
    assert not store.root.exists()
    assert list((moved.root / "mlartifacts").glob("*/artifacts/plan.md"))
    assert list(runs(moved)) == ["run 2"]


def test_nothing_is_printed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.tracking.tracker import Tracker;"
        "Tracker.open(Path(sys.argv[1]), 'films', 'run').close()"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert shown.stdout == shown.stderr == ""


# --- data -----------------------------------------------------------------------------------------------------------

FILE = {"digest": "a" * 64, "address": "/somewhere/train.jsonl", "num_rows": 32}


def inputs(run: Any) -> list[tuple[str, str, str]]:
    """Name, digest and context of a run's datasets."""
    return [
        (item.dataset.name, item.dataset.digest, {tag.key: tag.value for tag in item.tags}["mlflow.data.context"])
        for item in run.inputs.dataset_inputs
    ]


def test_data_is_logged_with_digest_and_context_and_once(store: Store) -> None:
    train = Dataset(name="films/train", context="train", **FILE)
    test = Dataset(name="films/test", context="test", **{**FILE, "digest": "b" * 64})
    known = [train]
    with Tracker.open(
        store.root, "films", "run 1", datasets=lambda step: known if step == "pet/p/0" else []
    ) as tracker:
        tracker.start_step("pet/p/0", "f" * 64, {})
        tracker.start_step("other", "e" * 64, {})
        known.append(test)
        tracker.end_step("pet/p/0")
        tracker.end_step("other")
    found = runs(store)
    assert sorted(inputs(found["pet/p/0"])) == [("films/test", "b" * 32, "test"), ("films/train", "a" * 32, "train")]
    assert inputs(found["other"]) == inputs(found["run 1"]) == []
    (about,) = (item.dataset for item in found["pet/p/0"].inputs.dataset_inputs if item.dataset.name == "films/train")
    assert json.loads(about.profile) == {"num_rows": 32}


def test_the_file_of_a_dataset_is_found_again(store: Store, tmp_path: Path) -> None:
    import mlflow.data

    file = tmp_path / "train.jsonl"
    file.write_text("a line")
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_datasets([Dataset(name="films/train", context="train", **{**FILE, "address": str(file)})])
    (item,) = runs(store)["run 1"].inputs.dataset_inputs
    assert Path(mlflow.data.get_source(item).load()).read_text() == "a line"


def test_data_in_an_object_store_keeps_its_url() -> None:
    about = (
        Dataset(name="films/train", context="train", **{**FILE, "address": "s3://bucket/train.jsonl"}).entity().dataset
    )
    assert (about.source_type, json.loads(about.source)) == ("s3", {"uri": "s3://bucket/train.jsonl"})


# --- names and gauges -----------------------------------------------------------------------------------------------


def test_whatever_labels_are_called_mlflow_takes_it_and_two_names_may_become_one(store: Store) -> None:
    names = ["yes/", "../up", "/top", "a//b", ".", "..", "", "a/./b", "n/a", "odd key {}", "标签", "same?", "same!"]
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_params({name: name for name in names})
        tracker.parent.log_params({f"words.{name}": name for name in names})
    found = runs(store)["run 1"].data.params
    assert set(found) == {metric_key(name) for name in names} | {metric_key(f"words.{name}") for name in names}
    assert (found["n/a"], found["标签"], found["same_"]) == ("n/a", "标签", "same!")


def test_the_machine_is_measured_while_steps_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with Tracker.open(store.root, "films", "idle"):
        pass
    with Tracker.open(store.root, "films", "busy") as tracker:
        tracker.start_step("a", "f" * 64, {})
        time.sleep(1.5)
    found = runs(store)
    assert "system/cpu_utilization_percentage" in found["busy"].data.metrics
    assert "system/system_memory_usage_megabytes" in found["busy"].data.metrics
    assert not any(name.startswith("system/") for name in found["idle"].data.metrics)


def test_the_gauges_can_be_turned_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.start_step("a", "f" * 64, {})
        time.sleep(0.5)
    assert runs(store)["run 1"].data.metrics == {}
