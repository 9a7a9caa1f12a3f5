"""Tests of the scores of token-level tasks."""

from __future__ import annotations

import pytest

from stages.token_level.metrics import entities, entity_table, squad_scores, token_classification_scores


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-PER I-PER O B-LOC", {(1, 3, "PER"), (4, 5, "LOC")}),
        ("B-PER B-PER I-PER", {(0, 1, "PER"), (1, 3, "PER")}),
        ("I-PER I-PER O I-LOC", {(0, 2, "PER"), (3, 4, "LOC")}),  # IOB1
        ("I-PER B-PER I-LOC", {(0, 1, "PER"), (1, 2, "PER"), (2, 3, "LOC")}),
        ("B-PER I-PER E-PER S-LOC S-LOC", {(0, 3, "PER"), (3, 4, "LOC"), (4, 5, "LOC")}),  # BIOES
        ("E-PER I-PER", {(0, 1, "PER"), (1, 2, "PER")}),
        ("NN VB-X O", set()),
        ("", set()),
    ],
)
def test_entities_follow_the_rules_of_conlleval(labels: str, expected: set[tuple[int, int, str]]) -> None:
    assert entities(labels.split()) == expected


def test_token_classification_scores_equal_those_computed_by_hand() -> None:
    """PER: 1 of 2 predictions is right, 1 of 1 gold entity is predicted. LOC: 1 of 1, and 1 of 2."""
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "O", "O"], ["B-LOC", "B-PER"]]
    score = token_classification_scores(gold, predicted)
    assert score.accuracy == pytest.approx(4 / 6, abs=1e-6)
    assert score.entity_f1 == pytest.approx(2 * 2 / (3 + 3), abs=1e-6)
    assert score.macro_f1 == pytest.approx(2 / 3, abs=1e-6)
    assert entity_table(gold, predicted) == [
        {"type": "LOC", "precision": 1.0, "recall": 0.5, "f1": 0.666667, "support": 2},
        {"type": "PER", "precision": 0.5, "recall": 1.0, "f1": 0.666667, "support": 1},
    ]
    score = token_classification_scores([["NN", "VB"]], [["NN", "NN"]])
    assert (score.accuracy, score.entity_f1) == (0.5, None)
    assert score.macro_f1 == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)


def test_squad_scores_equal_those_computed_by_hand() -> None:
    gold = [["The Eiffel Tower"], ["in 1889", "1889"], ["Paris, France"], []]
    score = squad_scores(gold, ["eiffel tower!", "1889", "Paris", "x"])
    assert score.accuracy == score.exact_match == 0.5
    assert score.macro_f1 == pytest.approx((1 + 1 + 2 / 3 + 0) / 4, abs=1e-6)
    assert squad_scores([[], ["x"]], ["", ""]).accuracy == 0.5
