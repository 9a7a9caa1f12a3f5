"""Versions and champions, in a real MLflow database. The models are toys: a number in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.store.base import Store
from cluster.tracking import model_registry
from cluster.tracking.model_registry import Candidate, PyfuncSpec, RegisteredVersion, register
from cluster.tracking.tracker import Tracker

pytestmark = pytest.mark.timeout(120)

CODE = """
from pathlib import Path
import pandas

class Toy:
    def __init__(self, value): self.value = value
    def predict(self, model_input, params=None):
        return pandas.DataFrame({"label": [text + self.value for text in model_input["text"]]})

def _load_pyfunc(path): return Toy(Path(path, "value.txt").read_text())
"""
LOADING = """
import sys, mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(*model.predict(pandas.DataFrame({"text": ["a", "b"]}))["label"])
"""


@pytest.fixture
def tracker(store: Store) -> Iterator[Tracker]:
    with Tracker.open(store.root, "films", "run") as opened:
        yield opened


@pytest.fixture
def loader(tmp_path: Path) -> PyfuncSpec:
    package = tmp_path / "code" / "toy_models"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CODE)
    return PyfuncSpec(module="toy_models", code=[package], requirements=["pandas"])


@pytest.fixture
def offered(tracker: Tracker, loader: PyfuncSpec, tmp_path: Path) -> Any:
    """Offers a toy model to the registry."""

    def call(value: str, accuracy: float, digest: str = "d1", name: str = "films.student") -> RegisteredVersion:
        folder = tmp_path / f"model-{value}"
        folder.mkdir(exist_ok=True)
        (folder / "value.txt").write_text(value)
        candidate = Candidate(
            name=name, step="distill/0", fingerprint=value * 8, run_id=tracker.parent.run_id, folder=lambda: folder,
            example={"text": "Some text."}, outputs={"label": "string"}, accuracy=accuracy, test_digest=digest,
            tags={"recipe": "films"},
        )  # fmt: skip
        return register(tracker.client, candidate, loader)

    return call


def champion(tracker: Tracker, name: str = "films.student") -> Any:
    return tracker.client.get_model_version_by_alias(name, "champion")


def test_the_first_version_is_the_champion_and_says_where_it_comes_from(offered: Any, tracker: Tracker) -> None:
    found = offered("a", 0.7)
    assert (found.number, found.is_new, found.is_champion) == ("1", True, True)
    version = champion(tracker)
    assert version.run_id == tracker.parent.run_id
    wanted = {"recipe": "films", "step.name": "distill/0", "step.fingerprint": "a" * 8, "test.digest": "d1"}
    assert wanted.items() <= version.tags.items()
    assert float(version.tags["test.accuracy"]) == 0.7


def test_what_is_registered_is_not_registered_again_and_its_files_are_not_asked_for(
    offered: Any, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered("a", 0.7)
    monkeypatch.setattr(model_registry, "_save", None)
    again = offered("a", 0.7)
    assert (again.number, again.is_new, again.is_champion) == ("1", False, True)
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
def test_the_alias_moves_to_what_is_better_on_the_same_test_set(
    accuracy: float, digest: str, number: str, note: str, offered: Any, tracker: Tracker
) -> None:
    offered("a", 0.7)
    found = offered("b", accuracy, digest)
    assert (found.number, found.is_champion) == ("2", number == "2")
    assert note in found.note and bool(note) == bool(found.note)
    assert str(champion(tracker).version) == number


def test_an_alias_that_a_person_moved_stays_where_it_is(offered: Any, tracker: Tracker) -> None:
    offered("a", 0.7)
    offered("b", 0.8)
    tracker.client.set_registered_model_alias("films.student", "champion", "1")
    assert not offered("b", 0.8).is_champion
    assert str(champion(tracker).version) == "1"


def test_a_version_whose_driver_died_before_the_alias_is_judged_by_the_next_one(
    offered: Any, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered("a", 0.7)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model_registry, "_judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        offered("b", 0.8)
    assert str(champion(tracker).version) == "1"
    found = offered("b", 0.8)
    assert (found.number, found.is_new, found.is_champion) == ("2", False, True)


def test_a_version_whose_files_are_gone_is_registered_again_and_is_no_champion_to_beat(
    offered: Any, tracker: Tracker, store: Store
) -> None:
    import shutil

    offered("a", 0.9)
    shutil.rmtree(store.root / "mlartifacts" / "models")
    found = offered("b", 0.5)
    assert found.is_champion
    again = offered("a", 0.9)
    assert (again.number, again.is_new, again.is_champion) == ("3", True, True)


def test_a_folder_that_cannot_be_read_makes_no_version(
    tracker: Tracker, loader: PyfuncSpec, tmp_path: Path, store: Store
) -> None:
    candidate = Candidate(
        name="films.student", step="distill/0", fingerprint="f", run_id=tracker.parent.run_id,
        folder=lambda: tmp_path / "nowhere", example={"text": "x"}, accuracy=0.5, test_digest="d",
    )  # fmt: skip
    with pytest.raises(OSError, match="nowhere"):
        register(tracker.client, candidate, loader)
    assert tracker.client.search_model_versions("name = 'films.student'") == []


def test_a_fresh_process_loads_the_champion_with_the_code_that_it_carries(
    offered: Any, tracker: Tracker, loader: PyfuncSpec, tmp_path: Path
) -> None:
    import shutil

    offered("a", 0.7)
    offered("b", 0.8)
    shutil.rmtree(loader.code[0])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOADING, "models:/films.student@champion"],
        cwd=folder, env={**os.environ, "MLFLOW_TRACKING_URI": tracker.uri, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.stdout.split() == ["ab", "bb"], done.stderr


def test_registering_leaves_no_database_where_it_runs(
    offered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's global address would be a file in the working folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert offered("a", 0.7).is_new
    assert list(folder.iterdir()) == []
