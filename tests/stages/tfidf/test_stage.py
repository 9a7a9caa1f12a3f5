"""Tests of the TF-IDF stage, compared with a pipeline of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from stages.common.config import MULTI_LABEL
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


def test_label_bias_is_in_the_folder_and_in_all_logits(film_data: Path, tmp_path: Path) -> None:
    words = ["dull", "slow"] * 20 + ["joy"] * 2
    rows = [Example(str(row), {"text": f"{word} film {row}"}, LABELS[word == "joy"]) for row, word in enumerate(words)]
    for name in ("train", "test"):
        write_examples(film_data / f"{name}.jsonl", rows)
    plain, biased = (
        run(tfidf, CONFIG.model_copy(update={"label_bias": kind}), tfidf.Inputs(data=film_data), tmp_path / kind)
        for kind in ("none", "macro_f1")
    )
    assert plain.held_out_macro_f1 < 0.5, "the rare label is never predicted"
    assert biased.held_out_macro_f1 > 0.9 and biased.test.macro_f1 == 1.0
    loaded = TfidfClassifier.load(tmp_path / "macro_f1" / "model")
    assert loaded.predict(rows, SILENT, "") == pytest.approx(logits_of(tmp_path / "macro_f1"), abs=1e-5)
    for file in ("test_logits", "held_out_logits"):
        shift = logits_of(tmp_path / "macro_f1", file) - logits_of(tmp_path / "none", file)
        assert shift == pytest.approx(np.tile(shift[0], (len(rows), 1)), abs=3e-5) and shift[0, 1] > 0.1


def test_naive_bayes_is_that_of_scikit_learn(film_data: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"classifier": "naive_bayes", "smoothing": 0.5})
    run(tfidf, config, tfidf.Inputs(data=film_data), tmp_path / "out")
    train, test = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    gold = [LABELS.index(item.label or "") for item in train]
    expected = make_pipeline(vectorizer, MultinomialNB(alpha=0.5)).fit(texts(train), gold).predict_proba(texts(test))
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(expected, abs=1e-5)
    loaded = ModelLoader().load(tmp_path / "out")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=1e-5)


def test_naive_bayes_decides_about_each_of_several_labels() -> None:
    rows = [("red wine", ["red", "wine"]), ("red car", ["red"]), ("white wine", ["wine"]), ("blue car", [])]
    examples = [Example(str(row), {"text": text}, tuple(label)) for row, (text, label) in enumerate(rows)]
    classifier = TfidfClassifier(
        ("red", "wine"), ("text",), "word", classifier="naive_bayes", problem_type=MULTI_LABEL
    ).fit(examples)
    assert (classifier.predict(examples, SILENT, "") > 0).tolist() == [
        [True, True],
        [True, False],
        [False, True],
        [False, False],
    ]


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"classifier": "naive_bayes", "regularization_c": 1.0}, "regularization_c"), ({"smoothing": 0.1}, "smoothing")],
)
def test_settings_of_the_other_classifier_raise(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key}: .* is for"):
        TfidfConfig(labels=LABELS, fields=("text",), **settings)
