"""Reads the MLflow runs of a store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from cluster.store.base import Store
from cluster.tracking.server import tracking_uri
from cluster.tracking.spool import FOLDER


def client(store: Store) -> MlflowClient:
    """Opens the database of a store."""
    return MlflowClient(tracking_uri(store.local))


def runs(store: Store, experiment: str = "films") -> dict[str, Any]:
    """Returns the latest run of each name."""
    experiment_id = client(store).get_experiment_by_name(experiment).experiment_id
    all_runs = client(store).search_runs([experiment_id], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: run for run in all_runs}


def wait_until_sent(store: Path) -> None:
    """Waits until another process has sent the records of all runs of a store."""
    deadline = time.monotonic() + 120
    while any((store / FOLDER).iterdir()):
        assert time.monotonic() < deadline, list((store / FOLDER).iterdir())
        time.sleep(0.2)
