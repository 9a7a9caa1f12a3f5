"""Tests of labeled examples that are probably mislabeled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stages.common.examples import Example
from stages.common.problems import SingleLabel
from stages.soft_labels.combination import HeldOut
from stages.soft_labels.config import SUSPECTS_FILE
from stages.soft_labels.suspects import find_suspects, write_suspects
from tests.support.stage_runs import LABELS


def held_out(gold: list[int], predicted: list[int], confidence: float = 3.0) -> HeldOut:
    logits = np.eye(2)[predicted] * confidence
    return HeldOut(tuple(f"film-{row}" for row in range(len(gold))), logits, np.array(gold), SingleLabel(LABELS))


def examples(gold: list[int]) -> list[Example]:
    return [Example(f"film-{row}", {"text": f"text {row}"}, LABELS[label]) for row, label in enumerate(gold)]


def test_confident_contradictions_are_suspects() -> None:
    gold = [0, 1] * 10
    predicted = gold.copy()
    predicted[3], predicted[8] = 0, 1
    suspects = find_suspects(held_out(gold, predicted), examples(gold), LABELS)
    assert {row["uid"] for row in suspects} == {"film-3", "film-8"}
    row = next(row for row in suspects if row["uid"] == "film-3")
    assert (row["text"], row["label"], row["predicted"]) == ("text 3", "fresh", "rotten")
    assert row["probability"] > 0.9


def test_labels_that_agree_are_no_suspects() -> None:
    gold = [0, 1] * 10
    assert find_suspects(held_out(gold, gold), examples(gold), LABELS) == []


def test_too_few_examples_give_no_suspects() -> None:
    assert find_suspects(held_out([0, 1, 0, 1], [1, 0, 0, 1]), examples([0, 1, 0, 1]), LABELS) == []


def test_suspects_are_written_as_lines(tmp_path: Path) -> None:
    write_suspects(tmp_path, [{"uid": "1", "text": "é"}, {"uid": "2", "text": "b"}])
    lines = (tmp_path / SUSPECTS_FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["uid"] for line in lines] == ["1", "2"]
