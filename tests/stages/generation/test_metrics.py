"""Tests of the scores of generated texts."""

from __future__ import annotations

import math

import pytest

from stages.common.errors import InputError
from stages.generation import packages
from stages.generation.metrics import score_texts


def test_perfect_texts_have_perfect_scores() -> None:
    texts = ["the film was a warm and clever story", "it was great and we liked it"]
    score, signature = score_texts([(text,) for text in texts], texts)
    assert (score.bleu, score.chrf, score.rouge_2, score.rouge_l) == (1.0, 1.0, 1.0, 1.0)
    assert score.accuracy == score.exact_match == score.macro_f1 == 1.0
    assert "tok:13a" in signature


def test_scores_are_those_of_a_computation_by_hand() -> None:
    score, _ = score_texts([("a b c d e f",)], ["a b c d x"])
    # n-grams of 1 to 4 words: 4 of 5, 3 of 4, 2 of 3, 1 of 2; 5 words instead of 6
    precisions = (4 / 5) * (3 / 4) * (2 / 3) * (1 / 2)
    assert score.bleu == pytest.approx(math.exp(1 - 6 / 5) * precisions ** (1 / 4), abs=1e-6)
    assert score.macro_f1 == score.rouge_l == pytest.approx(2 * 4 / 11, abs=1e-6)
    assert score.rouge_2 == pytest.approx(2 * 3 / 9, abs=1e-6)
    assert score.exact_match == 0.0
    assert score.num_examples == 1


def test_the_best_of_several_references_counts() -> None:
    texts = ["we liked the warm film a lot", "the food was bad and cold today"]
    score, _ = score_texts([("something else entirely is here now", texts[0]), (texts[1],)], texts)
    assert (score.bleu, score.rouge_l, score.exact_match) == (1.0, 1.0, 1.0)
    assert score_texts([("something else entirely is here now",), (texts[1],)], texts)[0].bleu < 1.0


def test_characters_are_units_of_scripts_without_spaces() -> None:
    gold, text = [("这部电影很好看",)], ["这部电影不好看"]
    words, characters = (score_texts(gold, text, units)[0] for units in ("words", "characters"))
    assert words.rouge_l == words.bleu == 0.0
    assert characters.rouge_l == pytest.approx(6 / 7, abs=1e-6)
    assert characters.bleu > 0.3


def test_letters_of_all_scripts_are_words() -> None:
    assert score_texts([("Это хороший фильм",)], ["это Хороший фильм!"])[0].rouge_l == 1.0


def test_an_empty_text_has_no_match() -> None:
    score, _ = score_texts([("a film",)], [""])
    assert (score.bleu, score.chrf, score.rouge_l, score.exact_match) == (0.0, 0.0, 0.0, 0.0)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "rouge_score" else object())
    with pytest.raises(InputError, match=r"need the package rouge-score.*clozeline\[generation\]"):
        score_texts([("a",)], ["a"])
