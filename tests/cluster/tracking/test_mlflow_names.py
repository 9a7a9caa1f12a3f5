"""Names that MLflow accepts."""

import pytest

from cluster.store.base import Store
from cluster.tracking.run_logger import metric_key
from cluster.tracking.tracker import Tracker
from tests.support.mlflow_helpers import runs

pytestmark = pytest.mark.timeout(120)


def test_metric_key_makes_any_label_valid(store: Store) -> None:
    names = ["yes/", "../up", "/top", "a//b", ".", "..", "", "a/./b", "n/a", "odd key {}", "标签", "same?", "same!"]
    with Tracker.open(store.root, "films", "run 1") as tracker:
        tracker.parent.log_params({name: name for name in names})
        tracker.parent.log_params({f"words.{name}": name for name in names})
    params = runs(store)["run 1"].data.params
    assert set(params) == {metric_key(name) for name in names} | {metric_key(f"words.{name}") for name in names}
    assert (params["n/a"], params["标签"], params["same_"]) == ("n/a", "标签", "same!")
