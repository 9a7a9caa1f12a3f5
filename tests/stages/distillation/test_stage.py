"""Tests of the distillation stage: the loss, the selection of examples, and the trained student."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.common.data.parquet_shards import write_shards
from stages.common.data.soft_label_shards import labeled_rows
from stages.common.data.step_outputs import read_losses, write_logits
from stages.common.data.text_shards import TextBatch
from stages.common.errors import DataError, InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.metrics.classification import softmax
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.problems import SingleLabel
from stages.common.training.config import EarlyStopping, TrainingConfig
from stages.distillation import stage as distillation
from stages.distillation.config import DistillationConfig
from stages.distillation.examples import select_confident, shard_examples
from stages.distillation.stage import distillation_loss
from tests.support.small_models import film_example
from tests.support.stage_runs import (
    LABELS,
    SILENT,
    Kept,
    assert_a_seed_decides,
    assert_student_has_the_label_bias,
    logits_of,
    run,
    written,
)

TRAINING = TrainingConfig(learning_rate=0.005, batch_size=5, steps=80, weight_decay=0.0)
SHORT = TrainingConfig(learning_rate=0.01, batch_size=3, steps=3)


def encoder(folder: Path, **settings: Any) -> StudentConfig:
    return StudentConfig(asset=str(folder), **({"max_length": 32, "precision": "fp32"} | settings))


def full(folder: Path, **settings: Any) -> DistillationConfig:
    """Trains all weights of the student."""
    values = {"student": encoder(folder), "training": TRAINING, "seed": 1} | settings
    return DistillationConfig(labels=LABELS, fields=("text",), **values)


def head(folder: Path, **settings: Any) -> DistillationConfig:
    """Fits a linear head on a frozen encoder, closely: random encoders separate texts less than pretrained ones."""
    return full(folder, student=encoder(folder, tune="head", head_regularization_c=1000.0), training=None, **settings)


TUNES = {"full": full, "head": head}


@pytest.fixture
def inputs(film_data: Path, tmp_path: Path) -> distillation.Inputs:
    """Soft labels of a confident teacher, which are right for all examples but the first."""
    folder = tmp_path / "soft_labels"
    folder.mkdir()
    gold = load_examples(film_data / "unlabeled_gold.jsonl")
    logits = np.array([[2.0, -2.0] if item.label == "rotten" else [-2.0, 2.0] for item in gold])
    logits[0] = -logits[0]
    write_logits(folder / "soft_labels.jsonl", load_examples(film_data / "unlabeled.jsonl"), logits, LABELS)
    (folder / "result.json").write_text('{"num_labeled": 8, "label_bias": [0.0, 0.0]}')
    return distillation.Inputs(data=film_data, soft_labels=folder)


def replace_soft_labels(inputs: distillation.Inputs, logits: np.ndarray) -> None:
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    write_logits(inputs.soft_labels / "soft_labels.jsonl", unlabeled_set, logits, LABELS)


@pytest.mark.parametrize("tune", TUNES)
def test_student_learns_the_soft_labels(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    recorder = Kept()
    result = run(distillation, TUNES[tune](backbone_folders["bert"]), inputs, tmp_path / "out", recorder)
    assert (result.num_labeled, result.num_unlabeled) == (8, 10)
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    teacher = logits_of(inputs.soft_labels, "soft_labels")
    assert (loaded.predict(unlabeled_set, SILENT, "").argmax(axis=1) == teacher.argmax(axis=1)).all()
    assert recorder.metrics["distill/num_kept"] == 10
    assert recorder.metrics["test/accuracy"] == result.test.accuracy
    assert len(recorder.tables["misclassified"]) == round(12 * (1 - result.test.accuracy))
    assert set(recorder.figures) == {"confusion", "reliability", "coverage"}
    assert recorder.metrics["test/ece"] == result.test.ece
    losses = [loss for _, loss in recorder.points.get("train/loss", [])]
    assert read_losses(tmp_path / "out") == pytest.approx(losses, abs=1e-6)
    encoder_parameters = loaded.encoder.model.named_parameters()
    size = sum(item.numel() for name, item in encoder_parameters if "pooler" not in name) + 2 * 32 + 2
    assert result.num_parameters == size, "trained or frozen"
    if tune == "full":
        assert result.trainable_parameters == size
        assert result.final_loss < 0.2
        assert result.test.accuracy >= 0.75
    else:
        assert (result.final_loss, result.trainable_parameters) == (None, 2 * 32 + 2)


@pytest.mark.parametrize("tune", TUNES)
def test_saved_student_predicts_the_test_logits(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    folder = shutil.copytree(backbone_folders["bert"], tmp_path / "bert")
    run(distillation, TUNES[tune](folder), inputs, tmp_path / "out")
    shutil.rmtree(folder)
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(inputs.data / "test.jsonl")
    assert loaded.labels == LABELS
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
    one_by_one = np.concatenate([loaded.predict([item], SILENT, "") for item in test])
    assert one_by_one == pytest.approx(logits_of(tmp_path / "out"), abs=3e-4)


def other_student(inputs: distillation.Inputs, folder: Path) -> tuple[Path, np.ndarray]:
    """Files and logits of another student, which labels the unlabeled set differently and less surely."""
    folder.mkdir()
    logits = np.random.default_rng(3).normal(size=(10, 2))
    write_logits(folder / "unlabeled_logits.jsonl", load_examples(inputs.data / "unlabeled.jsonl"), logits, LABELS)
    return folder, logits_of(folder, "unlabeled_logits")


@pytest.mark.parametrize("tune", TUNES)
def test_student_learns_the_mean_of_both_teachers(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    config = TUNES[tune](backbone_folders["bert"], **({"training": SHORT} if tune == "full" else {}))
    teacher, logits = other_student(inputs, tmp_path / "teacher")
    run(distillation, config, replace(inputs, teacher=teacher), tmp_path / "both")
    run(distillation, config, inputs, tmp_path / "ensemble")
    both = np.mean([softmax(logits_of(inputs.soft_labels, "soft_labels")), softmax(logits)], axis=0)
    replace_soft_labels(inputs, np.log(both))
    run(distillation, config, inputs, tmp_path / "mean")
    assert logits_of(tmp_path / "both") == pytest.approx(logits_of(tmp_path / "mean"), abs=1e-3)
    assert logits_of(tmp_path / "both") != pytest.approx(logits_of(tmp_path / "ensemble"), abs=1e-2)


def test_examples_are_kept_by_the_mean_of_both_teachers(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    teacher, logits = other_student(inputs, tmp_path / "teacher")
    both = np.mean([softmax(logits_of(inputs.soft_labels, "soft_labels")), softmax(logits)], axis=0)
    config = head(backbone_folders["bert"], min_confidence=0.7)
    result = run(distillation, config, replace(inputs, teacher=teacher), tmp_path / "out")
    assert result.num_unlabeled == (both.max(axis=1) >= 0.7).sum() < 10


def test_teacher_with_other_examples_raises(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    teacher, _ = other_student(inputs, tmp_path / "teacher")
    file = teacher / "unlabeled_logits.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"unlabeled_logits\.jsonl do not match 10 examples"):
        run(distillation, head(backbone_folders["bert"]), replace(inputs, teacher=teacher), tmp_path / "out")


def test_student_that_teaches_labels_the_unlabeled_set(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    for name, is_teacher in (("teacher", True), ("other", False)):
        config = full(backbone_folders["bert"], training=SHORT, label_unlabeled=is_teacher)
        run(distillation, config, inputs, tmp_path / name)
    assert not (tmp_path / "other" / "unlabeled_logits.jsonl").exists()
    loaded = TextClassifier.load(tmp_path / "teacher" / "model")
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    labeled = logits_of(tmp_path / "teacher", "unlabeled_logits")
    assert loaded.predict(unlabeled_set, SILENT, "") == pytest.approx(labeled, abs=2e-5)
    assert logits_of(tmp_path / "teacher") == pytest.approx(logits_of(tmp_path / "other"), abs=1e-6)


def test_result_depends_on_the_seed_only(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        run(distillation, full(backbone_folders["bert"], seed=seed, training=SHORT), inputs, tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


@pytest.mark.parametrize("tune", TUNES)
def test_order_of_soft_labels_does_not_matter(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    config = TUNES[tune](backbone_folders["bert"], **({"training": SHORT} if tune == "full" else {}))
    run(distillation, config, inputs, tmp_path / "first")
    file = inputs.soft_labels / "soft_labels.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    run(distillation, config, inputs, tmp_path / "reversed")
    assert written(tmp_path / "first") == written(tmp_path / "reversed")


def test_soft_labels_of_other_examples_raise(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    file = inputs.soft_labels / "soft_labels.jsonl"
    file.write_text(file.read_text().replace("film-103", "film-999"))
    with pytest.raises(DataError, match=r"soft_labels\.jsonl do not match 10 examples: the uid 'film-103'"):
        run(distillation, head(backbone_folders["bert"]), inputs, tmp_path / "out")


@pytest.mark.parametrize("tune", TUNES)
def test_gold_weight_adds_the_labeled_examples(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    """The teacher is always wrong, so the student predicts the labeled examples correctly only with gold labels."""
    replace_soft_labels(inputs, -logits_of(inputs.soft_labels, "soft_labels"))
    train = load_examples(inputs.data / "train.jsonl")
    accuracies = []
    for number, gold_weight in enumerate((0.0, 0.9)):
        config = TUNES[tune](backbone_folders["bert"], gold_weight=gold_weight)
        run(distillation, config, inputs, tmp_path / f"s{number}")
        logits = TextClassifier.load(tmp_path / f"s{number}" / "model").predict(train, SILENT, "")
        gold = [LABELS.index(item.label) for item in train]
        accuracies.append((logits.argmax(axis=1) == gold).mean())
    assert accuracies[0] <= 0.5 < accuracies[1] == 1.0


def test_head_is_the_logistic_regression_of_soft_and_gold_labels(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    """As in scikit-learn, on unit vectors: 10 soft labels have 0.75 and 8 gold labels 0.25 of the weight 18."""
    student = encoder(backbone_folders["bert"], tune="head", head_regularization_c=3.0)
    config = full(backbone_folders["bert"], student=student, training=None, gold_weight=0.25)
    run(distillation, config, inputs, tmp_path / "out")
    unlabeled_set, gold, test = (
        load_examples(inputs.data / f"{name}.jsonl") for name in ("unlabeled", "train", "test")
    )
    text_encoder = TextEncoder.of(config.student, ("text",))

    def unit(examples: list[Example]) -> np.ndarray:
        vectors = text_encoder.embed(examples, SILENT, "").double().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    soft = softmax(logits_of(inputs.soft_labels, "soft_labels"))[:, 1]
    weights = [*(0.75 * 18 / 10 * (1 - soft)), *(0.75 * 18 / 10 * soft), *[0.25 * 18 / 8] * 8]
    labels = [0] * 10 + [1] * 10 + [LABELS.index(item.label) for item in gold]
    expected = LogisticRegression(C=3.0, tol=1e-8, max_iter=10_000).fit(
        np.concatenate([unit(unlabeled_set), unit(unlabeled_set), unit(gold)]), labels, sample_weight=weights
    )
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(expected.predict_proba(unit(test)), abs=1e-4)


def test_early_stopping_keeps_the_best_parameters(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    """The dev set contradicts the teacher, so the first evaluation is the best."""
    test = load_examples(inputs.data / "test.jsonl")
    wrong = [Example(item.uid, item.fields, LABELS[1 - LABELS.index(item.label)]) for item in test]
    write_examples(inputs.data / "dev.jsonl", wrong)
    training = TRAINING.model_copy(update={"early_stopping": EarlyStopping(eval_steps=5, patience=2)})
    recorder = Kept()
    run(distillation, full(backbone_folders["bert"], training=training), inputs, tmp_path / "out", recorder)
    assert recorder.metrics["dev/best_step"] < 40
    logits = TextClassifier.load(tmp_path / "out" / "model").predict(wrong, SILENT, "")
    best = (logits.argmax(axis=1) == [LABELS.index(item.label) for item in wrong]).mean()
    assert best >= recorder.metrics["dev/accuracy"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_causal_model_is_trained_as_a_student(
    name: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    config = full(backbone_folders[name], student=encoder(backbone_folders[name], pooling="last"))
    result = run(distillation, config, inputs, tmp_path / "out")
    assert result.final_loss < 0.2
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(inputs.data / "test.jsonl")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_head_leaves_the_encoder_unchanged(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    config = head(backbone_folders["bert"])
    run(distillation, config, inputs, tmp_path / "out")
    before = TextEncoder.of(config.student, ("text",)).model.state_dict()
    after = TextClassifier.load(tmp_path / "out" / "model").encoder.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items() if "pooler" not in name)


def logits_for(probabilities: list[float]) -> np.ndarray:
    """Returns logits [n, 2] of two labels; the second label has these probabilities."""
    second = np.array(probabilities)
    return np.log(np.stack([1 - second, second], axis=1)) + 3


@pytest.mark.parametrize(
    ("keep_fraction", "min_confidence", "expected"),
    [
        (1.0, 0.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.5, 0.0, [0, 1, 4, 6]),  # three of six second labels, one of two first labels
        (0.4, 0.0, [0, 1, 4, 6]),  # 2.4 and 0.8 examples are rounded up
        (0.01, 0.0, [1, 4]),
        (1.0, 0.8, [0, 1, 4]),
        (0.5, 0.92, [1]),
        (1.0, 0.99, []),
    ],
)
def test_select_confident_keeps_the_most_confident_of_each_label(
    keep_fraction: float, min_confidence: float, expected: list[int]
) -> None:
    logits = logits_for([0.9, 0.95, 0.6, 0.55, 0.2, 0.65, 0.7, 0.45])
    assert select_confident(SingleLabel(LABELS), logits, keep_fraction, min_confidence) == expected


def test_keep_fraction_of_a_whole_number_is_not_rounded_up() -> None:
    assert len(select_confident(SingleLabel(LABELS), logits_for([0.9] * 10), 0.7, 0.0)) == 7


@pytest.mark.parametrize("tune", TUNES)
def test_student_is_trained_on_the_kept_examples_only(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    """Only the soft labels of examples that are not kept differ: the head must not."""
    confident = logits_of(inputs.soft_labels, "soft_labels")
    heads = []
    for number, factor in enumerate((0.3, -0.3)):
        logits = confident.copy()
        logits[5:] *= factor
        replace_soft_labels(inputs, logits)
        config = TUNES[tune](backbone_folders["bert"], min_confidence=0.9)
        recorder = Kept()
        result = run(distillation, config, inputs, tmp_path / f"s{number}", recorder)
        assert (result.num_unlabeled, recorder.metrics["distill/num_kept"]) == (5, 5)
        heads.append((tmp_path / f"s{number}" / "model" / "model.safetensors").read_bytes())
    assert heads[0] == heads[1]


def test_no_example_left_raises(backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path) -> None:
    config = head(backbone_folders["bert"], min_confidence=0.99)
    with pytest.raises(InputError, match=r"highest probability is 0\.98\. Lower min_confidence \(now 0\.99\)"):
        run(distillation, config, inputs, tmp_path / "out")
    write_examples(inputs.data / "unlabeled.jsonl", [])
    with pytest.raises(InputError, match="needs unlabeled examples"):
        run(distillation, head(backbone_folders["bert"]), inputs, tmp_path / "again")


@pytest.mark.parametrize("tune", TUNES)
def test_student_learns_without_labeled_examples(
    tune: str, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    write_examples(inputs.data / "train.jsonl", [])
    (inputs.soft_labels / "result.json").write_text('{"num_labeled": 0, "label_bias": [0.0, 0.0]}')
    result = run(distillation, TUNES[tune](backbone_folders["bert"]), inputs, tmp_path / "out")
    assert (result.num_labeled, result.num_unlabeled) == (0, 10)
    unlabeled_set = load_examples(inputs.data / "unlabeled.jsonl")
    logits = TextClassifier.load(tmp_path / "out" / "model").predict(unlabeled_set, SILENT, "")
    assert (logits.argmax(axis=1) == logits_of(inputs.soft_labels, "soft_labels").argmax(axis=1)).all()
    with pytest.raises(InputError, match=r"gold_weight is 0\.5, but there are no labeled examples"):
        run(distillation, TUNES[tune](backbone_folders["bert"], gold_weight=0.5), inputs, tmp_path / "gold")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Soft labels of 40 examples in shards of 9. Odd ones are fresh; the confidence grows with the number."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, first in enumerate(range(0, 40, 9)):
        rows = range(first, min(first + 9, 40))
        logits = np.array([[(-1) ** row * (0.1 + row / 20), 0.0] for row in rows])
        batch = TextBatch(f"part-{number}", 0, tuple(film_example(row) for row in rows))
        assert sum(write_shards([labeled_rows(batch, logits, LABELS)], {batch.shard: len(rows)}, folder)) == len(rows)
    return folder


def test_student_is_trained_on_a_sample_of_the_shards(
    shards: Path, backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    inputs = replace(inputs, shards=shards)

    def sample(**settings: Any) -> list[int]:
        examples = shard_examples(full(backbone_folders["bert"], **({"seed": 3} | settings)), shards)
        rows = [int(item.example.uid.removeprefix("film-")) for item in examples]
        for row, item in zip(rows, examples, strict=True):
            assert item.example == film_example(row)
            assert item.teacher == pytest.approx(((-1) ** row * (0.1 + row / 20), 0.0), abs=1e-5)
        return rows

    assert sample() == list(range(40))
    assert sample(keep_fraction=0.5, max_student_examples=100) == list(range(20, 40))
    sampled = sample(keep_fraction=0.5, max_student_examples=7)
    assert len(sampled) == 7
    assert set(sampled) < set(range(20, 40))
    assert sampled == sorted(sampled)
    assert sampled == sample(keep_fraction=0.5, max_student_examples=7)
    assert sampled != sample(keep_fraction=0.5, max_student_examples=7, seed=4)
    with pytest.raises(InputError, match="Lower min_confidence"):
        sample(min_confidence=0.99)
    config = full(backbone_folders["bert"], training=SHORT, max_student_examples=30)
    assert run(distillation, config, inputs, tmp_path / "student").num_unlabeled == 30


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_distillation_loss_is_the_kl_divergence_of_softened_distributions(temperature: float) -> None:
    teacher, student = [[2.0, -1.0, 0.5], [0.0, 3.0, 3.0]], [[1.0, 1.0, -2.0], [0.1, -0.2, 4.0]]
    total = 0.0
    for rows in zip(teacher, student, strict=True):
        p, q = (
            [math.exp(value / temperature) / sum(math.exp(item / temperature) for item in row) for value in row]
            for row in rows
        )
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(loss) == pytest.approx(temperature**2 * total / 2, rel=1e-5)


def test_distillation_loss_ignores_a_constant() -> None:
    teacher = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    assert float(distillation_loss(teacher + 5, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(-teacher, teacher, 2.0)) > 0.5


def test_student_has_the_label_bias_of_the_ensemble_but_does_not_teach_it(
    backbone_folders: dict[str, Path], inputs: distillation.Inputs, tmp_path: Path
) -> None:
    settings = head(backbone_folders["bert"], label_unlabeled=True)
    assert_student_has_the_label_bias(distillation, settings, inputs, TextClassifier.load, tmp_path)
