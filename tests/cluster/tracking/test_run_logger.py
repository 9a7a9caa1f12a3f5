"""What MLflow runs contain: names that MLflow accepts, datasets and tables."""

import json
from pathlib import Path
from typing import Any

import mlflow.data
import pytest

from cluster.store.base import Store
from cluster.tracking.run_logger import Dataset, metric_key, table_json
from cluster.tracking.tracker import TrackedStep, Tracker
from tests.support.mlflow_helpers import runs

pytestmark = pytest.mark.timeout(120)
FILE = {"digest": "a" * 64, "address": "/somewhere/train.jsonl", "num_rows": 32}


def inputs(run: Any) -> list[tuple[str, str, str]]:
    """Returns name, digest and context of a run's datasets."""
    return [
        (item.dataset.name, item.dataset.digest, {tag.key: tag.value for tag in item.tags}["mlflow.data.context"])
        for item in run.inputs.dataset_inputs
    ]


def test_datasets_are_logged_once_with_digest_and_context(store: Store) -> None:
    train = Dataset(name="films/train", context="train", **FILE)
    test = Dataset(name="films/test", context="test", **{**FILE, "digest": "b" * 64})
    datasets = [train]
    with Tracker.open(
        store.root, "films", "run 1", datasets=lambda step: datasets if step == "pet/p/0" else []
    ) as tracker:
        tracker.start_step(TrackedStep(name="pet/p/0", fingerprint="f" * 64, params={}))
        tracker.start_step(TrackedStep(name="other", fingerprint="e" * 64, params={}))
        datasets.append(test)
        tracker.end_step("pet/p/0")
        tracker.end_step("other")
    by_name = runs(store)
    assert sorted(inputs(by_name["pet/p/0"])) == [("films/test", "b" * 32, "test"), ("films/train", "a" * 32, "train")]
    assert inputs(by_name["other"]) == inputs(by_name["run 1"]) == []
    (dataset,) = (
        item.dataset for item in by_name["pet/p/0"].inputs.dataset_inputs if item.dataset.name == "films/train"
    )
    assert json.loads(dataset.profile) == {"num_rows": 32}


def test_get_source_finds_the_file_of_a_dataset(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("a line")
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_datasets([Dataset(name="films/train", context="train", **{**FILE, "address": str(file)})])
    (item,) = runs(store)["run 1"].inputs.dataset_inputs
    assert Path(mlflow.data.get_source(item).load()).read_text() == "a line"


def test_dataset_in_an_object_store_keeps_its_url(store: Store) -> None:
    with Tracker.open(store.root, "films", "run 1") as tracker:
        address = "s3://bucket/train.jsonl"
        tracker.parent.log_datasets([Dataset(name="films/train", context="train", **{**FILE, "address": address})])
    (item,) = runs(store)["run 1"].inputs.dataset_inputs
    assert (item.dataset.source_type, json.loads(item.dataset.source)) == ("s3", {"uri": address})


def test_table_has_null_for_what_json_cannot_write() -> None:
    rows = [{"text": "标签", "loss": float("nan"), "other": 1}, {"text": "https://me:pa55@host", "loss": 0.5}]
    assert json.loads(table_json(rows)) == {
        "columns": ["text", "loss", "other"],
        "data": [["标签", None, 1], ["https://me:***@host", 0.5, None]],
    }


def test_metric_key_makes_any_label_valid(store: Store) -> None:
    names = ["yes/", "../up", "/top", "a//b", ".", "..", "", "a/./b", "n/a", "odd key {}", "标签", "same?", "same!"]
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_params({name: name for name in names})
        tracker.parent.log_params({f"words.{name}": name for name in names})
    params = runs(store)["run 1"].data.params
    assert set(params) == {metric_key(name) for name in names} | {metric_key(f"words.{name}") for name in names}
    assert (params["n/a"], params["标签"], params["same_"]) == ("n/a", "标签", "same!")
