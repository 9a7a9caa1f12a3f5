"""Several labels per example, from the members of an ensemble to students: each text joins one or two short ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from transformers import pipeline

from stages.baseline import stage as baseline
from stages.baseline.config import BaselineConfig
from stages.common.config import MULTI_LABEL, TextTaskConfig
from stages.common.data.step_outputs import read_correct, read_logits
from stages.common.examples import Example, label_set, load_examples, write_examples
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.linear_heads import fit_logistic_regression
from stages.common.models.tfidf_classifier import TfidfClassifier
from stages.common.models.tfidf_config import TfidfSettings
from stages.common.problems import MultiLabel
from stages.common.training.config import TrainingConfig
from stages.common.training.label_bias import fit_label_bias
from stages.distillation import stage as distillation
from stages.distillation.config import DistillationConfig
from stages.distillation.examples import training_examples
from stages.distillation.stage import binary_distillation_loss
from stages.distillation.tfidf import stage as tfidf_distillation
from stages.distillation.tfidf.config import TfidfDistillationConfig
from stages.probe import stage as probe
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.probe.contrastive import balanced_batch, pair_loss
from stages.soft_labels import stage as soft_labels
from stages.soft_labels.combination import Combination
from stages.soft_labels.config import EnsembleConfig, SoftLabelsConfig
from stages.tfidf import stage as tfidf
from stages.tfidf.config import TfidfConfig
from tests.support.stage_runs import SILENT, Kept, run

TOPICS = {"acting": "the cast is great", "music": "the songs are bad", "plot": "a dull story"}
TASK: dict[str, Any] = {"labels": tuple(TOPICS), "fields": ("text",), "problem_type": MULTI_LABEL}
PROBLEM = MultiLabel(tuple(TOPICS))
STEPS = TrainingConfig(learning_rate=3e-3, batch_size=8, steps=60)


def texts(count: int, first: int = 0) -> list[Example]:
    """Texts with no label, one, or two."""
    names = list(TOPICS)
    examples = []
    for number in range(first, first + count):
        chosen = {names[number % 3], names[number // 3 % 3]} if number % 7 else set()
        labels = tuple(name for name in names if name in chosen)
        parts = [TOPICS[name] for name in labels] or ["nothing to say"]
        examples.append(Example(str(number), {"text": f"{' '.join(parts)} {'so ' * (number % 4)}".strip()}, labels))
    return examples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_examples(folder / "train.jsonl", texts(36))
    write_examples(folder / "dev.jsonl", [])
    write_examples(folder / "test.jsonl", texts(24, 100))
    unlabeled = texts(40, 200)
    write_examples(folder / "unlabeled.jsonl", [Example(item.uid, item.fields) for item in unlabeled])
    write_examples(folder / "unlabeled_gold.jsonl", unlabeled)
    return folder


def encoder(folder: Path) -> EncoderConfig:
    return EncoderConfig(asset=str(folder), max_length=32, precision="fp32")


def student(folder: Path, **settings: Any) -> StudentConfig:
    return StudentConfig(asset=str(folder), max_length=32, precision="fp32", **settings)


@pytest.fixture(scope="module")
def ensemble(data: Path, backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Members of all kinds, and their soft labels."""
    folder, bert = tmp_path_factory.mktemp("ensemble"), backbone_folders["bert"]
    run(tfidf, TfidfConfig(**TASK), tfidf.Inputs(data=data), folder / "words")
    frozen = ProbeConfig(encoder=encoder(bert), regularization_c=100.0, **TASK)
    run(probe, frozen, probe.Inputs(data=data), folder / "frozen")
    tuned = ProbeConfig(
        encoder=encoder(bert), regularization_c=100.0, num_folds=2,
        contrastive=ContrastiveConfig(training=TrainingConfig(learning_rate=1e-3, batch_size=8, steps=20)), **TASK,
    )  # fmt: skip
    run(probe, tuned, probe.Inputs(data=data), folder / "tuned")
    finetuned = BaselineConfig(student=student(bert), training=STEPS, num_folds=2, label_unlabeled=True, **TASK)
    run(baseline, finetuned, baseline.Inputs(data=data), folder / "finetuned")
    members = ("words", "frozen", "tuned", "finetuned")
    config = SoftLabelsConfig(
        labels=TASK["labels"], problem_type=MULTI_LABEL, members=members, groups=members, have_priors=(False,) * 4,
        ensemble=EnsembleConfig(average="probabilities", weights="accuracy", scaling="held_out"),
        label_bias="frequencies",
    )  # fmt: skip
    inputs = soft_labels.Inputs(data=data, members=tuple(folder / name for name in members))
    recorder = Kept()
    run(soft_labels, config, inputs, folder / "soft_labels", recorder)
    assert not {"suspects", "disagreements"} & recorder.tables.keys(), "they are about one label per text"
    assert {"agreement", "entropy"} <= recorder.figures.keys()
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_members_and_ensemble_learn_label_sets(data: Path, ensemble: Path) -> None:
    """Word counts separate these texts, so the ensemble does, too: far above the most frequent label alone."""
    for name in ("words", "frozen", "tuned", "finetuned"):
        test, held_out = result_of(ensemble / name)["test"], result_of(ensemble / name)["held_out_macro_f1"]
        assert 0 < held_out <= 1
        assert test["micro_f1"] > (0.9 if name in ("words", "finetuned") else 0.5), name
    result = result_of(ensemble / "soft_labels")
    assert result["test"]["micro_f1"] > 0.9
    assert result["unlabeled"]["micro_f1"] > 0.9
    assert result["num_suspects"] == 0
    assert sum(item["labeled"] for item in result["label_frequencies"]) == pytest.approx(1, abs=1e-5)
    rows = read_logits(ensemble / "soft_labels" / "test_logits.jsonl", TASK["labels"])
    gold = PROBLEM.gold_of(load_examples(data / "test.jsonl"))
    is_right = PROBLEM.is_right(rows.logits, gold)
    assert list(read_correct(ensemble / "soft_labels" / "test_logits.jsonl").values()) == is_right.tolist()
    assert result["test"]["accuracy"] == pytest.approx(is_right.mean(), abs=1e-6)


def test_soft_labels_have_the_thresholds(data: Path, ensemble: Path) -> None:
    """The held-out labels are as frequent as the gold labels, and students add nothing."""
    assert result_of(ensemble / "soft_labels")["label_bias"] == [0, 0, 0]
    members = [ensemble / name for name in ("words", "frozen", "tuned", "finetuned")]
    config = SoftLabelsConfig(
        labels=TASK["labels"], problem_type=MULTI_LABEL, members=("a",) * 4, groups=("a",) * 4,
        have_priors=(False,) * 4,
        ensemble=EnsembleConfig(average="probabilities", weights="accuracy", scaling="held_out"),
    )  # fmt: skip
    combination = Combination.fit(config, members)
    assert combination.held_out is not None
    bias = fit_label_bias(combination.held_out.logits, combination.held_out.gold, "frequencies")
    unlabeled = [read_logits(member / "unlabeled_logits.jsonl", TASK["labels"]).logits for member in members]
    written = read_logits(ensemble / "soft_labels" / "soft_labels.jsonl", TASK["labels"]).logits
    np.testing.assert_allclose(written, combination(unlabeled) + bias, atol=2e-5)


@pytest.mark.parametrize("tune", ["full", "head"])
def test_student_learns_from_soft_labels_of_label_sets(
    tune: str, data: Path, ensemble: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = DistillationConfig(
        student=student(backbone_folders["bert"], tune=tune, head_regularization_c=100.0),
        training=STEPS if tune == "full" else None, gold_weight=0.5, temperature=1.0, **TASK,
    )  # fmt: skip
    inputs = distillation.Inputs(data=data, soft_labels=ensemble / "soft_labels")
    recorder = Kept()
    result = run(distillation, config, inputs, tmp_path / "out", recorder)
    assert result.num_unlabeled == 40
    assert result.test.micro_f1 > (0.9 if tune == "full" else 0.5)
    assert recorder.metrics["test/micro_f1"] == result.test.micro_f1
    assert all(isinstance(row["predicted"], tuple) for row in recorder.tables["misclassified"])
    test_set = load_examples(data / "test.jsonl")
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    written = read_logits(tmp_path / "out" / "test_logits.jsonl", TASK["labels"]).logits
    np.testing.assert_allclose(loaded.predict(test_set, SILENT, ""), written, atol=2e-5)
    assert isinstance(loaded.problem, MultiLabel)


def test_transformers_gives_a_probability_per_label(
    data: Path, ensemble: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = BaselineConfig(student=student(backbone_folders["bert"]), training=STEPS, **TASK)
    run(baseline, config, baseline.Inputs(data=data), tmp_path / "out")
    folder = tmp_path / "out" / "model"
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "multi_label_classification"
    classify = pipeline("text-classification", str(folder), trust_remote_code=True)
    test_set = load_examples(data / "test.jsonl")
    expected = expit(TextClassifier.load(folder).predict(test_set, SILENT, ""))
    for item, row in zip(test_set, expected, strict=True):
        scores = {answer["label"]: answer["score"] for answer in classify(item.fields["text"], top_k=None)}
        assert [scores[label] for label in TASK["labels"]] == pytest.approx(row, abs=1e-4)


def test_tfidf_student_of_label_sets(data: Path, ensemble: Path, tmp_path: Path) -> None:
    config = TfidfDistillationConfig(gold_weight=0.5, **TASK)
    inputs = tfidf_distillation.Inputs(data=data, soft_labels=ensemble / "soft_labels")
    result = run(tfidf_distillation, config, inputs, tmp_path / "out")
    assert result.test.micro_f1 > 0.9
    loaded = TfidfClassifier.load(tmp_path / "out" / "model")
    written = read_logits(tmp_path / "out" / "test_logits.jsonl", TASK["labels"]).logits
    test_set = load_examples(data / "test.jsonl")
    np.testing.assert_allclose(loaded.predict(test_set, SILENT, ""), written, atol=2e-5)


def test_min_confidence_is_that_of_the_least_certain_decision(data: Path, ensemble: Path) -> None:
    inputs = distillation.Inputs(data=data, soft_labels=ensemble / "soft_labels")
    logits = read_logits(ensemble / "soft_labels" / "soft_labels.jsonl", TASK["labels"]).logits
    lowest = np.maximum(expit(logits), expit(-logits)).min(axis=1)
    limit = float(np.median(lowest))
    kept = training_examples(TfidfDistillationConfig(min_confidence=limit, **TASK), inputs)
    assert [item.example.uid for item in kept] == [str(200 + row) for row in np.flatnonzero(lowest >= limit)]


def test_tfidf_is_one_vs_rest_of_scikit_learn() -> None:
    examples, task = texts(36), TextTaskConfig(**TASK)
    classifier = TfidfClassifier.of(TfidfSettings(regularization_c=3.0), task).fit(examples)
    features = classifier.vectorizer.transform([item.fields["text"] for item in examples])
    reference = OneVsRestClassifier(LogisticRegression(C=3.0, max_iter=1000)).fit(features, PROBLEM.gold_of(examples))
    expected = reference.decision_function(features)
    np.testing.assert_allclose(classifier.predict(examples, SILENT, ""), expected, atol=1e-4)


def test_labels_that_no_example_or_every_example_has() -> None:
    examples = [Example(str(row), {"text": text}, ("acting",)) for row, text in enumerate(("good", "bad"))]
    classifier = TfidfClassifier.of(TfidfSettings(), TextTaskConfig(**TASK)).fit(examples)
    assert PROBLEM.names(PROBLEM.predict(classifier.predict(examples, SILENT, ""))) == [("acting",), ("acting",)]


def test_fitted_head_is_one_vs_rest_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5))
    gold = (features @ rng.normal(size=(5, 3)) + rng.normal(size=(40, 3)) > 0).astype(float)
    weight, bias = fit_logistic_regression(
        torch.from_numpy(features), torch.from_numpy(gold), 0.7, problem_type=MULTI_LABEL
    )
    for label in range(3):
        reference = LogisticRegression(C=0.7, tol=1e-10, max_iter=10_000).fit(features, gold[:, label])
        assert weight[label].numpy() == pytest.approx(reference.coef_[0], abs=1e-4)
        assert float(bias[label]) == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_distillation_loss_is_the_mean_divergence_of_binary_decisions() -> None:
    rng = np.random.default_rng(0)
    student_logits, teacher_logits = rng.normal(size=(2, 4, 3))
    loss = binary_distillation_loss(torch.from_numpy(student_logits), torch.from_numpy(teacher_logits), 2.0)
    p, q = expit(teacher_logits / 2), expit(student_logits / 2)
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert float(loss) == pytest.approx(4 * divergence.mean())


def test_pairs_are_as_near_as_their_label_sets_overlap() -> None:
    """The loss is 0 if the cosines are the Jaccard indices: 1/2 of {a, b} and {b}, 0 of disjoint sets."""
    labels = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    height = 3**0.5 / 2
    vectors = torch.tensor([[1.0, 0, 0, 0], [0.5, height, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    problem = MultiLabel(("a", "b", "c"))
    similarities = torch.from_numpy(problem.similarities(labels))
    assert float(pair_loss(vectors, similarities, similarities > 0)) == pytest.approx(0, abs=1e-12)
    similarities = torch.from_numpy(problem.similarities(labels[[0, 0]]))
    assert float(pair_loss(vectors[[0, 1]], similarities, similarities > 0)) == pytest.approx(0.25)


def counts(examples: Sequence[Example], rows: Sequence[int]) -> list[int]:
    return [sum(label in label_set(examples[row].label) for row in rows) for label in TOPICS]


def test_batch_has_texts_of_each_label_once() -> None:
    examples = texts(36)
    for step in range(5):
        batch = balanced_batch(examples, 16, seed=0, step=step)
        assert len(set(batch)) == len(batch) <= 16
        assert min(counts(examples, batch)) >= 4
        assert any(not examples[row].label for row in batch), "texts without labels are in it, too"
