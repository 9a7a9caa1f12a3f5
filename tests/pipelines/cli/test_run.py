"""Options of `run`, and what it prints at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.run.result import RunOptions, RunResult, Status, StepResult
from pipelines.cli import run
from pipelines.cli.app import app


def test_speculate_is_for_kinds_of_many_steps_and_part_of_the_resume_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[RunOptions] = []

    def run_recipe(request: Any, options: RunOptions, display: Any, *, register: bool) -> RunResult:
        received.append(options)
        steps = [
            StepResult(step="pet/review/0", fingerprint="a" * 64, status=Status.EXECUTED, attempts=2),
            StepResult(step="pet/review/1", fingerprint="b" * 64, status=Status.STOPPED),
        ]
        return RunResult(steps={step.step: step for step in steps})

    monkeypatch.setattr(run, "run_recipe", run_recipe)
    words = ["run", "smoke", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, "--speculate", "2.5"], env={"COLUMNS": "300"})
    assert received[0].speculation is not None and received[0].speculation.factor == 2.5
    kinds = received[0].speculation.kinds
    assert {"pet", "prompts", "distill", "baseline"} <= kinds and not kinds & {"llm", "data", "report", "soft_labels"}
    assert f"clozeline run smoke --speculate 2.5 --store {tmp_path}" in result.stdout
    assert "total     1 steps executed, 0 cached, 2 attempts, 0 s" in result.stdout
    CliRunner().invoke(app, words)
    assert received[1].speculation is None
