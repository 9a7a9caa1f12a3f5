"""Reads the MLflow runs of a store."""

from __future__ import annotations

from typing import Any

from mlflow.tracking import MlflowClient

from cluster.store.base import Store
from cluster.tracking.server import tracking_uri


def client(store: Store) -> MlflowClient:
    """Opens the database of a store."""
    return MlflowClient(tracking_uri(store.local))


def runs(store: Store, experiment: str = "films") -> dict[str, Any]:
    """Returns the latest run of each name."""
    experiment_id = client(store).get_experiment_by_name(experiment).experiment_id
    all_runs = client(store).search_runs([experiment_id], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: run for run in all_runs}
