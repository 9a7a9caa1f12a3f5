"""Tests of summaries over untrained patterns, computed again with numpy."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from stages.common.data.step_outputs import write_logits
from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.metrics.classification import score, softmax
from stages.pattern_summary import stage
from stages.pattern_summary.config import PatternSummaryConfig
from tests.support.stage_runs import LABELS, Kept, logits_of, run

HELD_OUT = (0.5, 0.75, 0.75)


@pytest.fixture
def patterns(film_data: Path, tmp_path: Path) -> list[Path]:
    """Folders of three patterns with random logits of the test set."""
    test = load_examples(film_data / "test.jsonl")
    rng = np.random.default_rng(5)
    folders = []
    for number, held_out in enumerate(HELD_OUT):
        folder = tmp_path / f"pattern-{number}"
        folder.mkdir()
        logits = rng.normal(size=(len(test), 2)).round(5)
        write_logits(folder / "test_logits.jsonl", test, logits, LABELS)
        found = score(logits, [str(item.label) for item in test], LABELS)
        values = {"accuracy": found.accuracy, "macro_f1": found.macro_f1, "mcc": found.mcc, "ece": found.ece}
        result = {
            "test": {**values, "exact_match": None, "num_examples": len(test)},
            "held_out_accuracy": held_out,
            "num_labeled": 0,
        }
        (folder / "result.json").write_text(json.dumps(result))
        folders.append(folder)
    return folders


def summary(
    method: str, film_data: Path, patterns: list[Path], out: Path, recorder: Kept | None = None
) -> stage.Result:
    config = PatternSummaryConfig(labels=LABELS, method=method, patterns=("a", "b", "c"))
    return run(stage, config, stage.Inputs(data=film_data, patterns=tuple(patterns)), out, recorder or Kept())


def test_mean_is_that_of_the_scores(film_data: Path, patterns: list[Path], tmp_path: Path) -> None:
    recorder = Kept()
    result = summary("mean", film_data, patterns, tmp_path / "out", recorder)
    accuracies = [row["accuracy"] for row in recorder.tables["patterns"]]
    assert result.test.accuracy == pytest.approx(np.mean(accuracies), abs=1e-6)
    assert result.accuracy_std == pytest.approx(statistics.stdev(accuracies), abs=1e-6) and result.accuracy_std > 0
    assert result.test.exact_match is None and result.test.num_examples == 12
    assert not (tmp_path / "out" / "test_logits.jsonl").exists()


def test_best_is_selected_on_labeled_examples(film_data: Path, patterns: list[Path], tmp_path: Path) -> None:
    result = summary("best", film_data, patterns, tmp_path / "out")
    assert result.selected == "b", "the first of two equal ones"
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(softmax(logits_of(patterns[1])), abs=1e-4)


def test_ensemble_is_the_mean_of_the_probabilities(film_data: Path, patterns: list[Path], tmp_path: Path) -> None:
    result = summary("ensemble", film_data, patterns, tmp_path / "out")
    expected = np.mean([softmax(logits_of(folder)) for folder in patterns], axis=0)
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(expected, abs=1e-4)
    gold = [LABELS.index(str(item.label)) for item in load_examples(film_data / "test.jsonl")]
    assert result.test.accuracy == pytest.approx(np.mean(expected.argmax(axis=1) == gold))


def test_best_without_labeled_examples_raises(film_data: Path, patterns: list[Path], tmp_path: Path) -> None:
    result = json.loads((patterns[2] / "result.json").read_text())
    (patterns[2] / "result.json").write_text(json.dumps({**result, "held_out_accuracy": None}))
    with pytest.raises(InputError, match="selected on labeled examples"):
        summary("best", film_data, patterns, tmp_path / "out")
