"""A failed sub-model is an error, unless ensemble.min_members allows it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Clozeline = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("ppt=null", "prompts=null", "baseline=null", "zero_shot=false", "distill.seeds=[0]")
ENDLESS = " ".join(["never"] * 60)
BROKEN = (f'task.patterns.endless="{{text}} {ENDLESS} {{mask}}"', "task.verbalizer.rotten.endless=[bad]",
          "task.verbalizer.fresh.endless=[good]")  # fmt: skip
"""A pattern whose words leave no space for text, so its sub-model always fails."""


@pytest.mark.timeout(600)
def test_failed_sub_model_is_dropped_only_with_min_members(clozeline: Clozeline, tmp_path: Path) -> None:
    words = ["run", "smoke", "--store", str(tmp_path)]
    words += [word for change in (*SMALL, *BROKEN) for word in ("-o", change)]

    failed = clozeline(*words)
    assert failed.returncode == 1
    assert "pet/endless/0" in failed.stdout and "leaves no space for text" in failed.stdout
    assert "blocked   soft_labels" in failed.stdout
    assert not (tmp_path / "reports").exists()

    too_few = clozeline(*words, "-o", "ensemble.min_members=4")
    assert too_few.returncode == 1
    assert not (tmp_path / "reports").exists()

    allowed = clozeline(*words, "-o", "ensemble.min_members=3")
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr
    assert "dropped   pet/endless/0" in allowed.stdout
    report = json.loads((tmp_path / "reports" / "smoke" / "report.json").read_text())
    assert "pet/endless" not in {row["name"] for row in report["rows"]}
    assert any("lacks pet/endless/0" in note for note in report["notes"])
    answered = clozeline(
        "predict", "smoke", "--input", "-", *words[2:], "-o", "ensemble.min_members=3", stdin="A bore.\n"
    )
    assert answered.returncode == 0, answered.stderr
