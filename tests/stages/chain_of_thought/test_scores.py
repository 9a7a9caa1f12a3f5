"""Tests of the scores of answers: an example without an answer is wrong."""

from __future__ import annotations

import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, matthews_corrcoef

from stages.chain_of_thought.scores import score_answers
from stages.common.config import ORDINAL, SINGLE_LABEL
from stages.common.examples import Example
from stages.common.problems import problem_of

LABELS = ("low", "middle", "high")
GOLD = ("low", "middle", "high", "high", "low", "middle")
PREDICTED = ("low", None, "middle", None, None, "middle")


def examples(gold: tuple[str, ...], questions: tuple[str, ...] | None = None) -> list[Example]:
    return [
        Example(str(row), {"text": "x"}, label, questions[row] if questions else None) for row, label in enumerate(gold)
    ]


def test_examples_without_an_answer_are_wrong_and_no_label_is_predicted() -> None:
    score = score_answers(PREDICTED, examples(GOLD), problem_of(LABELS, SINGLE_LABEL))
    assert (score.accuracy, score.num_examples, score.ece) == (pytest.approx(2 / 6, abs=1e-6), 6, None)
    named = [label or "none" for label in PREDICTED]
    assert score.macro_f1 == pytest.approx(
        f1_score(GOLD, named, labels=LABELS, average="macro", zero_division=0), abs=1e-6
    )
    assert score.mcc == pytest.approx(matthews_corrcoef(GOLD, named), abs=1e-6)
    assert (score.mae, score.qwk) == (None, None)


@pytest.mark.parametrize("gold", [("low",) * 6, ("high",) * 6])
def test_no_answer_at_all_is_never_right(gold: tuple[str, ...]) -> None:
    score = score_answers([None] * 6, examples(gold), problem_of(LABELS, SINGLE_LABEL))
    assert (score.accuracy, score.macro_f1) == (0.0, 0.0)


def test_ordered_labels_count_no_answer_as_the_farthest_label() -> None:
    score = score_answers(PREDICTED, examples(GOLD), problem_of(LABELS, ORDINAL))
    counted = [0, 2, 1, 0, 2, 1]
    truth = [LABELS.index(label) for label in GOLD]
    assert score.mae == pytest.approx(sum(abs(a - b) for a, b in zip(truth, counted, strict=True)) / 6, abs=1e-6)
    assert score.qwk == pytest.approx(cohen_kappa_score(truth, counted, weights="quadratic"), abs=1e-6)


def test_question_with_a_missing_answer_is_no_exact_match() -> None:
    gold_examples = examples(GOLD, ("a", "a", "b", "b", "c", "d"))
    assert score_answers(PREDICTED, gold_examples, problem_of(LABELS, SINGLE_LABEL)).exact_match == 0.25
