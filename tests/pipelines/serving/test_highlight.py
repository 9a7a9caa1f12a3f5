"""The words that decided are those without which the label is less probable."""

from __future__ import annotations

import pytest

from pipelines.serving.highlight import MAX_HIGHLIGHTED, decisive_words
from pipelines.serving.predictors import ClassifierPredictor
from stages.common.examples import Example
from stages.common.models.config import Analyzer
from stages.common.models.tfidf_classifier import TfidfClassifier


def predictor(good: str, bad: str, analyzer: Analyzer = "word") -> ClassifierPredictor:
    examples = [Example(f"{n}", {"text": (good, bad)[n % 2]}, ("good", "bad")[n % 2]) for n in range(8)]
    return ClassifierPredictor(TfidfClassifier(("bad", "good"), ("text",), analyzer).fit(examples))


def words(classifier: ClassifierPredictor, text: str) -> list[str]:
    example = Example("1", {"text": text})
    (prediction,) = classifier.predict([example])
    label = prediction["label"]
    return decisive_words(classifier, example, label, prediction["probabilities"][label])


def test_decisive_word_comes_first() -> None:
    classifier = predictor("a warm film", "a dull film")
    assert words(classifier, "This film is a warm one, warm indeed.")[0] == "warm"
    assert words(classifier, "Dull!") == ["Dull"], "a single word"
    assert words(classifier, "a dull film of the season")[0] == "dull"
    assert "season" not in words(classifier, "a dull film of the season"), "a word that the classifier does not know"


def test_long_text_is_left_out_in_parts() -> None:
    found = words(predictor("a warm film", "a dull film"), "and " * 400 + "warm " + "and " * 400)
    assert len(found) <= MAX_HIGHLIGHTED
    assert "warm" in found[0]


@pytest.mark.parametrize(("text", "expected"), [("这部电影很好看", "好看"), ("电影难看死了", "难看")])
def test_language_without_spaces_has_pieces_of_two_characters(text: str, expected: str) -> None:
    found = words(predictor("电影 好看", "电影 难看", "char"), text)
    assert any(set(word) & set(expected) for word in found)
