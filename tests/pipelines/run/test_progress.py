"""The progress of a run, which `status` shows in another process."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.run.events import Event, StepFinished, StepProgress
from cluster.store.garbage import active_run
from cluster.store.lease import Leases
from pipelines.cli.app import app
from pipelines.dag.fewshot import plan_recipe
from pipelines.run import progress
from pipelines.run.progress import ProgressWriter, clock, progress_text, running_steps
from pipelines.run.request import load_request

pytestmark = pytest.mark.timeout(120)
STEP = "pet/review/0"


def test_status_shows_rate_remaining_time_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WRITE_EVERY_S", 0.05)
    request = load_request("smoke", [], tmp_path)
    slot = request.store.slot(STEP, plan_recipe(request.config, request.store).keys[STEP].fingerprint)
    info: dict[str, float | str] = {"phase": "training", "examples_per_s": 35.0, "eta_s": 12.0}
    seen: list[Event] = []
    with Leases() as leases, active_run(request.store, leases) as run, ProgressWriter(run, seen.append) as on_event:
        leases.acquire(slot, STEP)
        on_event(StepProgress(STEP, 120, 400, info))
        wait_for_steps(tmp_path, {STEP})
        shown = CliRunner().invoke(app, ["status", "smoke", "--store", str(tmp_path)], env={"COLUMNS": "300"}).output
        (line,) = (line for line in shown.splitlines() if STEP in line)
        assert "training 120/400, 35/s, 0:12 left; " in line
        owner = f"{getpass.getuser()}@{os.uname().nodename}, process {os.getpid()}, started {time.strftime('%Y-%m-')}"
        assert owner in line
        on_event(StepFinished(STEP, 1.0, cached=False))
        wait_for_steps(tmp_path, set())
    assert [type(event) for event in seen] == [StepProgress, StepFinished]
    assert request.store.notes("runs") == []


def wait_for_steps(store: Path, steps: set[str]) -> None:
    until = time.monotonic() + 30
    while set(running_steps(load_request("smoke", [], store).store)) != steps:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_progress_text_has_what_is_known() -> None:
    assert progress_text(1, 2, {}) == "1/2"
    assert progress_text(1, 2, {"phase": "labeling", "eta_s": 3700.0}) == "labeling 1/2, 1:01:40 left"
    assert [clock(7), clock(750), clock(3723)] == ["0:07", "12:30", "1:02:03"]
