"""A driver that is killed while it registers a model: what it leaves cannot be loaded, and the next one ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.store.base import Store
from cluster.tracking.model_registry import delete_orphaned_models
from cluster.tracking.tracker import Tracker
from tests.support.paths import ROOT
from tests.support.registry import offer

pytestmark = pytest.mark.timeout(240)

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from mlflow.tracking import MlflowClient
from cluster.store.base import Store
from cluster.tracking.tracker import Tracker
from tests.support.registry import offer

moment, real = {moment!r}, getattr(MlflowClient, {moment!r})

def killed(self, *args, **kwargs):
    if moment != "log_model_artifact" or str(args[1]).endswith("MLmodel"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args, **kwargs)

setattr(MlflowClient, moment, killed)
with Tracker.open(Path({store!r}), "films", "run") as tracker:
    offer(tracker, Path({toys!r}))
"""

MOMENTS = (
    "log_model_artifact",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
)


def folders(store: Store) -> list[Path]:
    return sorted((store.root / "mlartifacts" / "models").glob("*/artifacts"))


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_killed_driver_leaves_is_whole_or_cannot_be_loaded_and_the_next_one_ends_it(
    moment: str, store: Store, tmp_path: Path
) -> None:
    script = KILLED.format(moment=moment, store=str(store.root), toys=str(tmp_path), root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr

    with Tracker.open(store.root, "films", "run") as tracker:
        client = tracker.client
        experiment = client.get_run(tracker.parent.run_id).info.experiment_id
        is_whole = moment not in MOMENTS[:2]
        (left,) = client.search_logged_models([experiment])
        assert str(left.status) == ("READY" if is_whole else "PENDING")
        (folder,) = folders(store)
        assert (folder / "MLmodel").exists() == (moment != "log_model_artifact")
        assert len(client.search_model_versions("name = 'films.student'")) == (moment == MOMENTS[-1])

        assert delete_orphaned_models(client, experiment) == (not is_whole)
        assert folders(store) == ([folder] if is_whole else [])
        assert offer(tracker, tmp_path) == ("1", True)
        (model,) = client.search_logged_models([experiment])
        assert (str(model.status), model.model_id == left.model_id) == ("READY", is_whole)
        (kept,) = folders(store)
        assert (kept / "MLmodel").exists()
        assert client.get_model_version_by_alias("films.student", "champion").source.endswith(str(kept))


def test_what_a_living_driver_registers_is_left_alone(store: Store) -> None:
    from cluster.tracking.model_registry import owner_tag

    with Tracker.open(store.root, "films", "run") as tracker:
        experiment = tracker.client.get_run(tracker.parent.run_id).info.experiment_id
        model = tracker.client.create_logged_model(experiment, name="films-student", tags=owner_tag())
        assert delete_orphaned_models(tracker.client, experiment) == 0
        assert tracker.client.get_logged_model(model.model_id) is not None
