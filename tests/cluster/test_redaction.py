"""Secrets in URLs do not reach logs, errors, MLflow or the terminal."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from cluster.redaction import redact, redact_file, redact_values
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.base import Store
from cluster.tracking.run_logger import Dataset
from cluster.tracking.tracker import Tracker, tracking_uri
from pipelines.cli.views.terminal import console
from tests.support.steps import toy

PASSWORD = "pa55w0rd"
URL = f"https://me:{PASSWORD}@data.example/films.csv"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:pa55@host:5432/runs", "postgresql://me:***@host:5432/runs"),
        ("a redis://:pa55@host, b", "a redis://:***@host, b"),
        ("https://ghp_0123456789abcdef@host/x", "https://***@host/x"),
        ("https://x.blob/y?sv=1&sig=aB%2F3%3D&se=2", "https://x.blob/y?sv=1&sig=***&se=2"),
        ("s3://b/k?X-Amz-Credential=A/b&X-Amz-Date=1&X-Amz-Signature=0f", "s3://b/k?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***"),
        ("'https://host/x?access_token=abc' failed", "'https://host/x?access_token=***' failed"),
    ],
)  # fmt: skip
def test_secrets_become_stars_and_the_rest_stays(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/store",
        "pypi:films==1.0/a.csv",
        "https://host:8443/a?page=2&keyword=x",
        "https://me@host/a",
        "mail me@host or see a?key=b: no address",
        "hf:org/name@main",
    ],
)
def test_what_has_no_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_values_are_masked_however_deep_they_lie() -> None:
    found = redact_values({"data": [{"path": URL}, 3, None], URL: True})
    assert found == {"data": [{"path": redact(URL)}, 3, None], redact(URL): True}


def test_a_file_without_secrets_is_not_written_again(tmp_path: Path) -> None:
    clean, dirty = tmp_path / "clean.log", tmp_path / "dirty.log"
    clean.write_bytes(b"s3://bucket/x \xff\n")
    dirty.write_bytes(f"read {URL} ".encode() + b"\xff\n")
    before = clean.stat().st_ino
    redact_file(clean)
    redact_file(dirty)
    assert clean.stat().st_ino == before
    assert dirty.read_bytes() == f"read {redact(URL)} ".encode() + b"\xff\n"


def test_the_terminal_shows_stars(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    table = Table("data")
    table.add_row(URL)
    console.print(URL, soft_wrap=True)
    console.print(table)
    assert PASSWORD not in out.getvalue()
    assert out.getvalue().count("https://me:***@data.example/films.csv") == 2


@pytest.mark.usefixtures("ray_session")
def test_a_step_that_fails_on_a_url_tells_it_without_the_password(store: Store) -> None:
    step = toy("data/films", 1, fail=f"address {URL}")
    with Tracker.open(store.root, "films", "run", tags={"from": URL}, datasets=_films) as tracker:
        outcome = execute([step], store, RunOptions(poll_s=0.05), tracker)
        tracker.parent.log_text("recipe.yaml", f"path: {URL}")
        tracker.parent.log_table("plan", [{"why": URL}])
    error = outcome.errors["data/films"]
    log = Path(error.log).read_text()
    assert "https://me:***@data.example" in error.problem
    assert log.count("https://me:***@data.example") >= 2  # what it printed, and the trace
    assert PASSWORD not in f"{error} {error.trace} {log}"
    for path in (store.root / "mlartifacts").rglob("*"):
        assert not path.is_file() or PASSWORD not in path.read_text(errors="replace"), path
    assert PASSWORD.encode() not in (store.root / "mlflow.db").read_bytes()


def _films(step: str) -> list[Dataset]:
    return [Dataset(name=step, digest="0" * 64, context="train", address=URL)]


def test_parameters_of_a_step_are_masked(store: Store) -> None:
    from mlflow.tracking import MlflowClient

    with Tracker.open(store.root, "films", "run") as tracker:
        run_id = tracker.start_step("data/films", "f" * 16, {"path": URL})
        tracker.end_step("data/films")
    params: dict[str, Any] = MlflowClient(tracking_uri(store.root)).get_run(run_id).data.params
    assert params == {"path": redact(URL)}
