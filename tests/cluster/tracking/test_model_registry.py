"""Versions and champions in an MLflow database, and models of killed drivers. A model is a text in a file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.store.base import Store
from cluster.tracking import model_registry
from cluster.tracking.model_registry import (
    Candidate,
    PyfuncSpec,
    RegisteredVersion,
    delete_orphaned_models,
    owner_tag,
    register,
)
from cluster.tracking.tracker import Tracker
from tests.support.paths import ROOT
from tests.support.registry import register_small_model

pytestmark = pytest.mark.timeout(240)

CODE = """
from pathlib import Path
import pandas

class Toy:
    def __init__(self, value): self.value = value
    def predict(self, model_input, params=None):
        return pandas.DataFrame({"label": [text + self.value for text in model_input["text"]]})

def _load_pyfunc(path): return Toy(Path(path, "value.txt").read_text())
"""
LOAD = """
import sys, mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(*model.predict(pandas.DataFrame({"text": ["a", "b"]}))["label"])
"""


@pytest.fixture
def tracker(store: Store) -> Iterator[Tracker]:
    with Tracker.open(store.root, "films", "run") as open_tracker:
        yield open_tracker


@pytest.fixture
def spec(tmp_path: Path) -> PyfuncSpec:
    package = tmp_path / "code" / "toy_models"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CODE)
    return PyfuncSpec(module="toy_models", code=[package], requirements=["pandas"])


@pytest.fixture
def register_model(tracker: Tracker, spec: PyfuncSpec, tmp_path: Path) -> Any:
    """Registers a model that appends `value` to texts."""

    def call(value: str, accuracy: float, digest: str = "d1", name: str = "films.student") -> RegisteredVersion:
        folder = tmp_path / f"model-{value}"
        folder.mkdir(exist_ok=True)
        (folder / "value.txt").write_text(value)
        candidate = Candidate(
            name=name, step="distill/0", fingerprint=value * 8, run_id=tracker.run_id, folder=lambda: folder,
            example={"text": "Some text."}, outputs={"label": "string"}, accuracy=accuracy, test_digest=digest,
            tags={"recipe": "films"},
        )  # fmt: skip
        return register(tracker.client, candidate, spec)

    return call


def champion(tracker: Tracker, name: str = "films.student") -> Any:
    return tracker.client.get_model_version_by_alias(name, "champion")


def test_first_version_is_the_champion_and_has_its_origin_in_tags(register_model: Any, tracker: Tracker) -> None:
    version = register_model("a", 0.7)
    assert (version.number, version.is_new, version.is_champion) == ("1", True, True)
    version = champion(tracker)
    assert version.run_id == tracker.run_id
    expected = {"recipe": "films", "step.name": "distill/0", "step.fingerprint": "a" * 8, "test.digest": "d1"}
    assert expected.items() <= version.tags.items()
    assert float(version.tags["test.accuracy"]) == 0.7


def test_result_is_registered_once(register_model: Any, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    register_model("a", 0.7)
    monkeypatch.setattr(model_registry, "_save", None)
    second = register_model("a", 0.7)
    assert (second.number, second.is_new, second.is_champion) == ("1", False, True)
    assert len(tracker.client.search_model_versions("name = 'films.student'")) == 1


@pytest.mark.parametrize(
    ("accuracy", "digest", "number", "note"),
    [
        (0.8, "d1", "2", ""),
        (0.7, "d1", "1", "70.0% to 70.0%"),
        (0.6, "d1", "1", "70.0% to 60.0%"),
        (0.9, "d2", "1", "another test set"),
    ],
)
def test_champion_is_the_best_version_on_the_same_test_set(
    accuracy: float, digest: str, number: str, note: str, register_model: Any, tracker: Tracker
) -> None:
    register_model("a", 0.7)
    version = register_model("b", accuracy, digest)
    assert (version.number, version.is_champion) == ("2", number == "2")
    assert note in version.note and bool(note) == bool(version.note)
    assert str(champion(tracker).version) == number


def test_alias_that_the_user_moved_is_kept(register_model: Any, tracker: Tracker) -> None:
    register_model("a", 0.7)
    register_model("b", 0.8)
    tracker.client.set_registered_model_alias("films.student", "champion", "1")
    assert not register_model("b", 0.8).is_champion
    assert str(champion(tracker).version) == "1"


def test_version_of_a_killed_driver_is_evaluated_by_the_next_driver(
    register_model: Any, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_model("a", 0.7)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model_registry, "_promote_champion", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        register_model("b", 0.8)
    assert str(champion(tracker).version) == "1"
    version = register_model("b", 0.8)
    assert (version.number, version.is_new, version.is_champion) == ("2", False, True)


def test_version_without_files_is_replaced(register_model: Any, tracker: Tracker, store: Store) -> None:
    register_model("a", 0.9)
    shutil.rmtree(store.root / "mlartifacts" / "models")
    version = register_model("b", 0.5)
    assert version.is_champion
    second = register_model("a", 0.9)
    assert (second.number, second.is_new, second.is_champion) == ("3", True, True)


def test_unreadable_folder_creates_no_version(tracker: Tracker, spec: PyfuncSpec, tmp_path: Path, store: Store) -> None:
    candidate = Candidate(
        name="films.student", step="distill/0", fingerprint="f", run_id=tracker.run_id,
        folder=lambda: tmp_path / "nowhere", example={"text": "x"}, accuracy=0.5, test_digest="d",
    )  # fmt: skip
    with pytest.raises(OSError, match="nowhere"):
        register(tracker.client, candidate, spec)
    assert tracker.client.search_model_versions("name = 'films.student'") == []


def test_new_process_loads_the_champion_with_its_own_code(
    register_model: Any, tracker: Tracker, spec: PyfuncSpec, tmp_path: Path
) -> None:
    register_model("a", 0.7)
    register_model("b", 0.8)
    shutil.rmtree(spec.code[0])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    process = subprocess.run(
        [sys.executable, "-c", LOAD, "models:/films.student@champion"],
        cwd=folder, env={**os.environ, "MLFLOW_TRACKING_URI": tracker.uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert process.stdout.split() == ["ab", "bb"], process.stderr


def test_register_creates_no_database_in_the_working_folder(
    register_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's default tracking address is a file in the working folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert register_model("a", 0.7).is_new
    assert list(folder.iterdir()) == []


KILLED_DRIVER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from mlflow.tracking import MlflowClient
from cluster.store.base import Store
from cluster.tracking.tracker import Tracker
from tests.support.registry import register_small_model

method, real = {method!r}, getattr(MlflowClient, {method!r})

def killed(self, *args, **kwargs):
    if method != "log_model_artifact" or str(args[1]).endswith("MLmodel"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args, **kwargs)

setattr(MlflowClient, method, killed)
with Tracker.open(Path({store!r}), "films", "run") as tracker:
    register_small_model(tracker, Path({folder!r}))
"""

METHODS = (
    "log_model_artifact",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
)


def model_folders(store: Store) -> list[Path]:
    return sorted((store.root / "mlartifacts" / "models").glob("*/artifacts"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_model_of_a_killed_driver_is_complete_or_deleted(method: str, store: Store, tmp_path: Path) -> None:
    script = KILLED_DRIVER.format(method=method, store=str(store.root), folder=str(tmp_path), root=str(ROOT))
    process = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr

    with Tracker.open(store.root, "films", "run") as tracker:
        client = tracker.client
        experiment = client.get_run(tracker.run_id).info.experiment_id
        is_complete = method not in METHODS[:2]
        (model,) = client.search_logged_models([experiment])
        assert str(model.status) == ("READY" if is_complete else "PENDING")
        first_id = model.model_id
        (folder,) = model_folders(store)
        assert (folder / "MLmodel").exists() == (method != "log_model_artifact")
        assert len(client.search_model_versions("name = 'films.student'")) == (method == METHODS[-1])

        assert delete_orphaned_models(client, experiment) == (not is_complete)
        assert model_folders(store) == ([folder] if is_complete else [])
        assert register_small_model(tracker, tmp_path) == ("1", True)
        (model,) = client.search_logged_models([experiment])
        assert (str(model.status), model.model_id == first_id) == ("READY", is_complete)
        (remaining,) = model_folders(store)
        assert (remaining / "MLmodel").exists()
        assert client.get_model_version_by_alias("films.student", "champion").source.endswith(str(remaining))


def test_model_of_a_running_driver_is_kept(store: Store) -> None:
    with Tracker.open(store.root, "films", "run") as tracker:
        experiment = tracker.client.get_run(tracker.run_id).info.experiment_id
        model = tracker.client.create_logged_model(experiment, name="films-student", tags=owner_tag())
        assert delete_orphaned_models(tracker.client, experiment) == 0
        assert tracker.client.get_logged_model(model.model_id) is not None
