"""System metrics of the driver's machine."""

import time

import pytest

from cluster.store.base import Store
from cluster.tracking.tracker import TrackedStep, Tracker
from tests.support.mlflow_helpers import runs

pytestmark = pytest.mark.timeout(120)
STEP = TrackedStep(name="a", fingerprint="f" * 64, params={})


def test_system_metrics_are_logged_while_steps_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with Tracker.open(store.root, "films", "idle"):
        pass
    with Tracker.open(store.root, "films", "busy") as tracker:
        tracker.start_step(STEP)
        time.sleep(1.5)
    by_name = runs(store)
    assert "system/cpu_utilization_percentage" in by_name["busy"].data.metrics
    assert "system/system_memory_usage_megabytes" in by_name["busy"].data.metrics
    assert not any(name.startswith("system/") for name in by_name["idle"].data.metrics)


def test_system_metrics_can_be_disabled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.start_step(STEP)
        time.sleep(0.5)
    assert runs(store)["run 1"].data.metrics == {}
