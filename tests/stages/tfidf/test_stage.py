"""Tests of the TF-IDF stage, compared with a pipeline of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.metrics.classification import softmax
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.prompts.loader import ModelLoader
from stages.tfidf import stage as tfidf
from stages.tfidf.config import TfidfConfig
from tests.support.stage_runs import LABELS, SILENT, logits_of, run

CONFIG = TfidfConfig(labels=LABELS, fields=("text",), num_folds=2)
THREE = ("a", "b", "c")


def texts(examples: list[Example]) -> list[str]:
    return [item.fields["text"] for item in examples]


def test_tfidf_is_logistic_regression_on_ngrams(film_data: Path, tmp_path: Path) -> None:
    result = run(tfidf, CONFIG, tfidf.Inputs(data=film_data), tmp_path / "out")
    train, test = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    model = make_pipeline(vectorizer, LogisticRegression(C=10.0))
    gold = [LABELS.index(item.label or "") for item in train]
    expected = model.fit(texts(train), gold).predict_proba(texts(test))
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(expected, abs=2e-3)
    assert result.trainable_parameters == 2 * len(vectorizer.vocabulary_) + 2
    assert result.held_out_accuracy == pytest.approx(
        np.mean(
            [
                logits.argmax() == label
                for logits, label in zip(logits_of(tmp_path / "out", "held_out_logits"), gold, strict=True)
            ]
        )
    )


def test_loaded_member_predicts_the_same(film_data: Path, tmp_path: Path) -> None:
    run(tfidf, CONFIG, tfidf.Inputs(data=film_data), tmp_path / "out")
    test = load_examples(film_data / "test.jsonl")
    loaded = ModelLoader().load(tmp_path / "out")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=1e-5)


def test_a_label_without_examples_is_never_predicted() -> None:
    examples = [Example("1", {"text": "good film"}, "a"), Example("2", {"text": "bad film"}, "c")]
    classifier = TfidfClassifier(THREE, ("text",), "word").fit(examples)
    assert classifier.predict(examples, SILENT, "").argmax(axis=1).tolist() == [0, 2]
    assert softmax(classifier.predict([Example("3", {"text": "film"})], SILENT, ""))[0, 1] < 1e-6


def test_three_labels_have_a_weight_each() -> None:
    examples = [Example(str(row), {"text": word}, word[0]) for row, word in enumerate(["apple", "bread", "cheese"])]
    classifier = TfidfClassifier(THREE, ("text",), "char").fit(examples)
    assert classifier.predict(examples, SILENT, "").argmax(axis=1).tolist() == [0, 1, 2]


def test_texts_without_words_raise() -> None:
    with pytest.raises(InputError, match="no words"):
        TfidfClassifier(LABELS, ("text",), "word").fit([Example("1", {"text": "!!!"}, "fresh")])


def test_without_labels_raises(film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "train.jsonl", [])
    with pytest.raises(InputError, match="TF-IDF needs labeled examples"):
        run(tfidf, CONFIG, tfidf.Inputs(data=film_data), tmp_path / "out")
