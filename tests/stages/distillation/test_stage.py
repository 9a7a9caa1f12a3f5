"""Students and baselines: what they learn, leave out, write and repeat."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.baseline import stage as baseline
from stages.baseline.config import BaselineConfig
from stages.common.data.split_files import load_examples, write_examples
from stages.common.data.step_outputs import read_losses, write_logits
from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.training.config import EarlyStopping, TrainingConfig
from stages.distillation import stage as distillation
from stages.distillation.config import DistillationConfig
from stages.distillation.stage import select_confident
from tests.support.stage_runs import LABELS, SILENT, Kept, assert_a_seed_decides, logits_of, run, written

LOOP = TrainingConfig(learning_rate=0.005, batch_size=5, steps=80, weight_decay=0.0)
SHORT = TrainingConfig(learning_rate=0.01, batch_size=3, steps=3)


def encoder(folder: Path, **settings: Any) -> StudentConfig:
    return StudentConfig(asset=str(folder), **({"max_length": 32, "precision": "fp32"} | settings))


def full(folder: Path, **settings: Any) -> DistillationConfig:
    """A student all of whose weights are trained."""
    values = {"student": encoder(folder), "training": LOOP, "seed": 1} | settings
    return DistillationConfig(labels=LABELS, fields=("text",), **values)


def head(folder: Path, **settings: Any) -> DistillationConfig:
    """A linear head on a frozen encoder; fitted closely, since random encoders tell texts less apart than real ones."""
    return full(folder, student=encoder(folder, tune="head", head_regularization_c=1000.0), training=None, **settings)


TUNES = {"full": full, "head": head}


def as_baseline(config: DistillationConfig) -> BaselineConfig:
    return BaselineConfig(**{name: getattr(config, name) for name in BaselineConfig.model_fields})


@pytest.fixture
def taught(film_data: Path, tmp_path: Path) -> distillation.Inputs:
    """Soft labels by a sure teacher that is right, save for the first text."""
    folder = tmp_path / "taught"
    folder.mkdir()
    pile = load_examples(film_data / "unlabeled_gold.jsonl")
    logits = np.array([[2.0, -2.0] if item.label == "rotten" else [-2.0, 2.0] for item in pile])
    logits[0] = -logits[0]
    write_logits(folder / "soft_labels.jsonl", load_examples(film_data / "unlabeled.jsonl"), logits, LABELS)
    (folder / "result.json").write_text('{"num_labeled": 8}')
    return distillation.Inputs(data=film_data, soft_labels=folder)


def teach(taught: distillation.Inputs, logits: np.ndarray) -> None:
    """Other soft labels for the pile."""
    pile = load_examples(taught.data / "unlabeled.jsonl")
    write_logits(taught.soft_labels / "soft_labels.jsonl", pile, logits, LABELS)


# --- students -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", TUNES)
def test_a_student_learns_what_the_teacher_says(
    tune: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    recorder = Kept()
    result = run(distillation, TUNES[tune](backbone_folders["bert"]), taught, tmp_path / "out", recorder)
    assert (result.num_labeled, result.num_unlabeled) == (8, 10), "its teachers' labels count"
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    pile = load_examples(taught.data / "unlabeled.jsonl")
    teacher = logits_of(taught.soft_labels, "soft_labels")
    assert (loaded.predict(pile, SILENT, "").argmax(axis=1) == teacher.argmax(axis=1)).all(), "its mistake included"
    assert recorder.metrics["distill/num_kept"] == 10
    assert recorder.metrics["test/accuracy"] == result.test.accuracy
    assert len(recorder.tables["misclassified"]) == round(12 * (1 - result.test.accuracy))
    assert set(recorder.figures) == {"confusion", "reliability", "coverage"}
    assert recorder.metrics["test/ece"] == result.test.ece
    losses = [loss for _, loss in recorder.points.get("train/loss", [])]
    assert read_losses(tmp_path / "out") == pytest.approx(losses, abs=1e-6)
    if tune == "full":
        assert result.final_loss < 0.1
        assert result.test.accuracy >= 0.75
    else:
        assert (result.final_loss, result.trainable_parameters) == (None, 2 * 32 + 2)


@pytest.mark.parametrize("stage", ["distillation", "baseline"])
@pytest.mark.parametrize("tune", TUNES)
def test_a_saved_classifier_gives_the_tested_logits(
    stage: str, tune: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    folder = shutil.copytree(backbone_folders["bert"], tmp_path / "bert")
    config = TUNES[tune](folder)
    if stage == "baseline":
        result = run(baseline, as_baseline(config), baseline.Inputs(data=taught.data), tmp_path / "out")
        assert (result.num_labeled, result.num_unlabeled) == (8, 0)
    else:
        run(distillation, config, taught, tmp_path / "out")
    shutil.rmtree(folder)
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(taught.data / "test.jsonl")
    assert loaded.labels == LABELS
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
    alone = np.concatenate([loaded.predict([item], SILENT, "") for item in test])
    assert alone == pytest.approx(logits_of(tmp_path / "out"), abs=3e-4), "padding changes nothing"
    train = load_examples(taught.data / "train.jsonl")
    if stage == "baseline":
        guesses = loaded.predict(train, SILENT, "").argmax(axis=1)
        assert [LABELS[guess] for guess in guesses] == [item.label for item in train]


@pytest.mark.parametrize("tune", TUNES)
def test_gold_labels_join_the_lesson_where_a_share_is_asked_for(
    tune: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    """With a teacher that is always wrong, only the gold labels can teach the labelled texts."""
    teach(taught, -logits_of(taught.soft_labels, "soft_labels"))
    train = load_examples(taught.data / "train.jsonl")
    accuracies = []
    for number, share in enumerate((0.0, 0.9)):
        config = TUNES[tune](backbone_folders["bert"], gold_weight=share)
        run(distillation, config, taught, tmp_path / f"s{number}")
        guesses = TextClassifier.load(tmp_path / f"s{number}" / "model").predict(train, SILENT, "").argmax(axis=1)
        accuracies.append(np.mean([LABELS[guess] == item.label for guess, item in zip(guesses, train, strict=True)]))
    assert accuracies[0] <= 0.5 < accuracies[1] == 1.0


def test_a_head_is_the_logistic_regression_of_soft_and_gold_labels(
    backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    """By scikit-learn, on unit vectors: 10 soft texts weigh 0.75 and 8 gold ones 0.25 of 18."""
    config = full(
        backbone_folders["bert"],
        student=encoder(backbone_folders["bert"], tune="head", head_regularization_c=3.0), training=None, gold_weight=0.25,
    )  # fmt: skip
    run(distillation, config, taught, tmp_path / "out")
    pile, gold, test = (load_examples(taught.data / f"{name}.jsonl") for name in ("unlabeled", "train", "test"))
    reader = TextEncoder.of(config.student, ("text",))

    def unit(examples: list[Example]) -> np.ndarray:
        vectors = reader.embed(examples, SILENT, "").double().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    soft = softmax(logits_of(taught.soft_labels, "soft_labels"))[:, 1]
    weights = [*(0.75 * 18 / 10 * (1 - soft)), *(0.75 * 18 / 10 * soft), *[0.25 * 18 / 8] * 8]
    labels = [0] * 10 + [1] * 10 + [LABELS.index(item.label) for item in gold]
    expected = LogisticRegression(C=3.0, tol=1e-8, max_iter=10_000).fit(
        np.concatenate([unit(pile), unit(pile), unit(gold)]), labels, sample_weight=weights
    )
    found = softmax(logits_of(tmp_path / "out"))
    assert found == pytest.approx(expected.predict_proba(unit(test)), abs=1e-4)


@pytest.mark.parametrize(("tune", "training"), [("head", LOOP), ("full", None)])
@pytest.mark.parametrize("config", [BaselineConfig, DistillationConfig])
def test_a_loop_belongs_to_a_student_that_is_trained(tune: str, training: TrainingConfig | None, config: Any) -> None:
    with pytest.raises(ValueError, match=r"student\.tune: head takes no loop.* Mend student\.tune or loop"):
        config(labels=LABELS, fields=("text",), student=encoder(Path("x"), tune=tune), training=training, seed=1)


def test_a_student_stops_early_on_the_dev_set(
    backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    """The dev set says the contrary of the teacher, so that the first look is the best."""
    test = load_examples(taught.data / "test.jsonl")
    wrong = [Example(item.uid, item.fields, LABELS[1 - LABELS.index(item.label)]) for item in test]
    write_examples(taught.data / "dev.jsonl", wrong)
    loop = LOOP.model_copy(update={"early_stopping": EarlyStopping(eval_steps=5, patience=2)})
    recorder = Kept()
    run(distillation, full(backbone_folders["bert"], training=loop), taught, tmp_path / "out", recorder)
    assert recorder.metrics["dev/best_step"] < 40
    guesses = TextClassifier.load(tmp_path / "out" / "model").predict(wrong, SILENT, "").argmax(axis=1)
    best = np.mean([LABELS[guess] == item.label for guess, item in zip(guesses, wrong, strict=True)])
    assert best >= recorder.metrics["dev/accuracy"], "the best parameters are kept, not the last"


@pytest.mark.parametrize("stage", ["distillation", "baseline"])
def test_a_seed_decides_all_of_a_trained_student(
    stage: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        config = full(backbone_folders["bert"], seed=seed, training=SHORT)
        if stage == "baseline":
            run(baseline, as_baseline(config), baseline.Inputs(data=taught.data), tmp_path / name)
        else:
            run(distillation, config, taught, tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_causal_model_is_trained_like_any_other_student(
    name: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    config = full(backbone_folders[name], student=encoder(backbone_folders[name], pooling="last"))
    result = run(distillation, config, taught, tmp_path / "out")
    assert result.final_loss < 0.2
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(taught.data / "test.jsonl")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_a_frozen_encoder_is_left_as_it_was(
    backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    config = head(backbone_folders["bert"])
    run(distillation, config, taught, tmp_path / "out")
    before = TextEncoder.of(config.student, ("text",)).model.state_dict()
    after = TextClassifier.load(tmp_path / "out" / "model").encoder.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items() if "pooler" not in name)


# --- what is worth learning from ----------------------------------------------------------------------------------


def of_second(probabilities: list[float]) -> np.ndarray:
    """[n, 2] logits of labels of which the second has these probabilities."""
    second = np.array(probabilities)
    return np.log(np.stack([1 - second, second], axis=1)) + 3


@pytest.mark.parametrize(
    ("keep_fraction", "min_confidence", "expected"),
    [
        (1.0, 0.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.5, 0.0, [0, 1, 4, 6]),  # of six second labels the surest three, of two first labels the surest
        (0.4, 0.0, [0, 1, 4, 6]),  # 2.4 and 0.8 texts are rounded up
        (0.01, 0.0, [1, 4]),
        (1.0, 0.8, [0, 1, 4]),
        (0.5, 0.92, [1]),
        (1.0, 0.99, []),
    ],
)
def test_the_surest_texts_of_each_label_are_kept(
    keep_fraction: float, min_confidence: float, expected: list[int]
) -> None:
    logits = of_second([0.9, 0.95, 0.6, 0.55, 0.2, 0.65, 0.7, 0.45])
    assert select_confident(logits, keep_fraction, min_confidence) == expected


def test_shares_of_a_round_number_are_not_rounded_up() -> None:
    assert len(select_confident(of_second([0.9] * 10), 0.7, 0.0)) == 7


@pytest.mark.parametrize("tune", TUNES)
def test_a_student_learns_from_the_kept_texts_alone(
    tune: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    """Labels of unsure texts are wrong: whoever learnt from them would have another head."""
    sure = logits_of(taught.soft_labels, "soft_labels")
    heads = []
    for number, unsure in enumerate((0.3, -0.3)):
        logits = sure.copy()
        logits[5:] *= unsure
        teach(taught, logits)
        config = TUNES[tune](backbone_folders["bert"], min_confidence=0.9)
        recorder = Kept()
        result = run(distillation, config, taught, tmp_path / f"s{number}", recorder)
        assert (result.num_unlabeled, recorder.metrics["distill/num_kept"]) == (5, 5)
        heads.append((tmp_path / f"s{number}" / "model" / "head.safetensors").read_bytes())
    assert heads[0] == heads[1]


def test_a_student_with_nothing_to_learn_from_is_refused(
    backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    config = head(backbone_folders["bert"], min_confidence=0.99)
    with pytest.raises(InputError, match=r"no text is left.*probability 0\.98\. Lower min_confidence \(now 0\.99\)"):
        run(distillation, config, taught, tmp_path / "out")
    write_examples(taught.data / "unlabeled.jsonl", [])
    with pytest.raises(InputError, match="no unlabelled texts"):
        run(distillation, head(backbone_folders["bert"]), taught, tmp_path / "again")


@pytest.mark.parametrize("tune", TUNES)
def test_without_any_labels_a_student_learns_from_soft_ones(
    tune: str, backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    write_examples(taught.data / "train.jsonl", [])
    (taught.soft_labels / "result.json").write_text('{"num_labeled": 0}')
    result = run(distillation, TUNES[tune](backbone_folders["bert"]), taught, tmp_path / "out")
    assert (result.num_labeled, result.num_unlabeled) == (0, 10)
    pile = load_examples(taught.data / "unlabeled.jsonl")
    found = TextClassifier.load(tmp_path / "out" / "model").predict(pile, SILENT, "")
    assert (found.argmax(axis=1) == logits_of(taught.soft_labels, "soft_labels").argmax(axis=1)).all()
    with pytest.raises(InputError, match=r"gold_weight is 0\.5, but there are no labelled examples"):
        run(distillation, TUNES[tune](backbone_folders["bert"], gold_weight=0.5), taught, tmp_path / "gold")


def test_a_baseline_without_labels_is_refused(
    backbone_folders: dict[str, Path], taught: distillation.Inputs, tmp_path: Path
) -> None:
    write_examples(taught.data / "train.jsonl", [])
    with pytest.raises(InputError, match="baseline learns from labelled examples"):
        config = as_baseline(head(backbone_folders["bert"]))
        run(baseline, config, baseline.Inputs(data=taught.data), tmp_path / "out")


# --- what a student reads -----------------------------------------------------------------------------------------


def test_the_fields_behind_the_first_are_read_as_one_second_text(backbone_folders: dict[str, Path]) -> None:
    """Three fields are the pair of the first and the other two, in the order of `fields`; one and two are as ever."""
    example = Example("1", {"a": "the film", "b": "it was dull", "c": "a warm story"})
    logits = {}
    for fields in (("b",), ("b", "c"), ("b", "c", "a")):
        student = TextClassifier.from_encoder(encoder(backbone_folders["bert"]), LABELS, fields, 0)
        logits[len(fields)] = student.predict([example], SILENT, "")
        reader = student.encoder.tokenizer
        second = {1: (), 2: ("a warm story",), 3: ("a warm story the film",)}[len(fields)]
        ids = reader("it was dull", *second, return_tensors="pt")
        with torch.inference_mode():
            states = student.encoder.model(**ids).last_hidden_state
            expected = student.head(states.mean(dim=1)).numpy()
        assert logits[len(fields)] == pytest.approx(expected, abs=1e-5)
    assert np.abs(logits[3] - logits[2]).max() > 1e-3
