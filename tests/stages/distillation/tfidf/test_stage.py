"""Tests of distillation into TF-IDF, compared with scikit-learn on weighted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from stages.common.data.step_outputs import write_logits
from stages.common.errors import InputError
from stages.common.examples import load_examples
from stages.common.metrics.classification import softmax
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.distillation.tfidf import stage as tfidf_distillation
from stages.distillation.tfidf.config import TfidfDistillationConfig
from tests.support.stage_runs import LABELS, SILENT, Kept, assert_student_has_the_label_bias, logits_of, run


def config(**settings: Any) -> TfidfDistillationConfig:
    return TfidfDistillationConfig(labels=LABELS, fields=("text",), **settings)


@pytest.fixture
def inputs(film_data: Path, tmp_path: Path) -> tfidf_distillation.Inputs:
    """Soft labels of a teacher that is not sure."""
    folder = tmp_path / "soft_labels"
    folder.mkdir()
    gold = load_examples(film_data / "unlabeled_gold.jsonl")
    logits = np.array([[1.0, -1.0] if item.label == "rotten" else [-1.0, 1.0] for item in gold])
    write_logits(folder / "soft_labels.jsonl", load_examples(film_data / "unlabeled.jsonl"), logits, LABELS)
    (folder / "result.json").write_text('{"num_labeled": 8, "label_bias": [0.0, 0.0]}')
    return tfidf_distillation.Inputs(data=film_data, soft_labels=folder)


@pytest.mark.parametrize("gold_weight", [0.0, 0.25])
def test_student_is_logistic_regression_on_weighted_rows(
    gold_weight: float, inputs: tfidf_distillation.Inputs, tmp_path: Path
) -> None:
    recorder = Kept()
    result = run(tfidf_distillation, config(gold_weight=gold_weight), inputs, tmp_path / "out", recorder)
    unlabeled, labeled, test = (load_examples(inputs.data / f"{name}.jsonl") for name in ("unlabeled", "train", "test"))
    soft = softmax(logits_of(inputs.soft_labels, "soft_labels"))
    used = labeled if gold_weight else []
    size = len(unlabeled) + len(used)
    share = size * (1 - gold_weight) / len(unlabeled)
    rows = [(item, label, soft[row, label] * share) for row, item in enumerate(unlabeled) for label in (0, 1)]
    rows += [(item, LABELS.index(item.label or ""), size * gold_weight / len(used)) for item in used]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    vectorizer.fit([item.fields["text"] for item in [*unlabeled, *used]])
    model = LogisticRegression(C=10.0).fit(
        vectorizer.transform([item.fields["text"] for item, _, _ in rows]),
        [label for _, label, _ in rows],
        [weight for _, _, weight in rows],
    )
    expected = model.predict_proba(vectorizer.transform([item.fields["text"] for item in test]))
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(expected, abs=5e-3)
    assert (result.num_labeled, result.num_unlabeled) == (8, len(unlabeled))
    assert result.num_parameters == 2 * len(vectorizer.vocabulary_) + 2
    assert recorder.metrics["test/accuracy"] == result.test.accuracy


def test_saved_student_predicts_the_test_logits(inputs: tfidf_distillation.Inputs, tmp_path: Path) -> None:
    run(tfidf_distillation, config(label_unlabeled=True), inputs, tmp_path / "out")
    loaded = TfidfClassifier.load(tmp_path / "out" / "model")
    for name, file in (("test", "test_logits"), ("unlabeled", "unlabeled_logits")):
        examples = load_examples(inputs.data / f"{name}.jsonl")
        assert loaded.predict(examples, SILENT, "") == pytest.approx(logits_of(tmp_path / "out", file), abs=1e-5)


def test_max_features_keeps_the_most_frequent_words(inputs: tfidf_distillation.Inputs, tmp_path: Path) -> None:
    result = run(tfidf_distillation, config(max_features=5), inputs, tmp_path / "out")
    assert result.num_parameters == 2 * 5 + 2


def test_no_confident_example_raises(inputs: tfidf_distillation.Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no soft-labeled example is left"):
        run(tfidf_distillation, config(min_confidence=0.99), inputs, tmp_path / "out")


def test_student_has_the_label_bias_of_the_ensemble_but_does_not_teach_it(
    inputs: tfidf_distillation.Inputs, tmp_path: Path
) -> None:
    settings = config(label_unlabeled=True)
    assert_student_has_the_label_bias(tfidf_distillation, settings, inputs, TfidfClassifier.load, tmp_path)
