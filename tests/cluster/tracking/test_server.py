"""The server or database of a store, and its experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import TrackingError
from cluster.tracking.server import Destination
from cluster.tracking.tracker import COLUMNS

pytestmark = pytest.mark.timeout(120)
SECRET = "https://me:pa55@host/mlflow"


def test_experiment_has_a_view_with_the_columns_of_all_runs(tmp_path: Path) -> None:
    destination = Destination(tmp_path, "films")
    client = destination.open_client()
    experiment_id = destination.find_experiment(client)
    tag = "mlflow.sharedViewState.columns"
    client.set_experiment_tag(experiment_id, tag, "of an earlier version")
    assert destination.find_experiment(client) == experiment_id
    columns = json.loads(client.get_experiment(experiment_id).tags[tag])["selectedColumns"]
    metrics = [f"metrics.`{name}`" for name in (*COLUMNS, "seconds")]
    assert sorted(columns) == sorted((*metrics, "tags.`step`", "tags.`reason`"))
    page = destination.runs_page(experiment_id)
    assert page.startswith(f"http://127.0.0.1:5000/#/experiments/{experiment_id}/runs?")
    assert page.endswith("viewStateShareKey=columns")


def test_page_of_a_server_is_on_the_server_without_its_password(tmp_path: Path) -> None:
    page = Destination(tmp_path, "films", SECRET).runs_page("7")
    assert page.startswith("https://me:***@host/mlflow/#/experiments/7/runs?")


def test_record_has_no_password_which_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = Destination(tmp_path, "films", SECRET)
    record = destination.record()
    assert "pa55" not in json.dumps(record)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    assert Destination.from_record(tmp_path, record) == destination
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    with pytest.raises(TrackingError, match=r"the password of MLflow at \S+@host/mlflow is not known"):
        Destination.from_record(tmp_path, record)
    default = Destination(tmp_path, "films")
    assert Destination.from_record(tmp_path, default.record()) == default
