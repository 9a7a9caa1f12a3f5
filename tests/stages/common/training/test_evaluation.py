"""Tests of evaluation: scores and tables that are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stages.common.examples import Example, write_examples
from stages.common.problems import SingleLabel
from stages.common.protocols import NullRecorder
from stages.common.training.evaluation import evaluate_on_test
from tests.support.stage_runs import Kept


class AlwaysFresh:
    """Predicts the second label for every example."""

    def predict(self, examples: Sequence[Example], recorder: NullRecorder, phase: str) -> np.ndarray:
        del recorder, phase
        return np.tile([0.0, 1.0], (len(examples), 1))


@pytest.mark.parametrize("questions", [("q1", "q1", "q2"), (None, None, None)])
def test_evaluate_on_test_records_scores_and_per_class_table(questions: tuple[str | None, ...], tmp_path: Path) -> None:
    gold = ("fresh", "rotten", "fresh")
    texts = [
        Example(str(n), {"text": "x"}, label, question)
        for n, (label, question) in enumerate(zip(gold, questions, strict=True))
    ]
    write_examples(tmp_path / "test.jsonl", texts)
    recorder = Kept()
    actual = evaluate_on_test(AlwaysFresh(), SingleLabel(("rotten", "fresh")), tmp_path, tmp_path, recorder)
    assert (actual.accuracy, actual.mcc) == (pytest.approx(2 / 3, abs=1e-6), 0)
    assert actual.exact_match == (0.5 if questions[0] else None)
    expected = {"accuracy": actual.accuracy, "macro_f1": 0.4, "mcc": 0.0, "ece": actual.ece}
    expected |= {"exact_match": 0.5} if questions[0] else {}
    assert recorder.metrics == {f"test/{name}": value for name, value in expected.items()}
    assert [(row["label"], row["recall"], row["support"]) for row in recorder.tables["per_class"]] == [
        ("rotten", 0, 1),
        ("fresh", 1, 2),
    ]
