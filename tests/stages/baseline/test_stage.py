"""Tests of the baseline stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.baseline import stage as baseline
from stages.baseline.config import BaselineConfig
from stages.common.errors import InputError
from stages.common.examples import load_examples, write_examples
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.prompts.loader import ModelLoader
from stages.common.training.config import TrainingConfig
from tests.support.small_models import film_examples
from tests.support.stage_runs import (
    LABELS,
    SILENT,
    assert_a_seed_decides,
    held_out_by_hand,
    logits_of,
    run,
    written,
)

TRAINING = TrainingConfig(learning_rate=0.005, batch_size=5, steps=80, weight_decay=0.0)

SHORT = TrainingConfig(learning_rate=0.01, batch_size=3, steps=3)


def config_of(folder: Path, tune: str, **settings: Any) -> BaselineConfig:
    strength = {"head_regularization_c": 1000.0} if tune == "head" else {}
    student = StudentConfig(asset=str(folder), max_length=32, precision="fp32", tune=tune, **strength)
    values = {"training": TRAINING if tune == "full" else None, "seed": 1} | settings
    return BaselineConfig(labels=LABELS, fields=("text",), student=student, **values)


@pytest.mark.parametrize("tune", ["full", "head"])
def test_baseline_learns_the_labeled_examples_and_is_loaded(
    tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], tune)
    result = run(baseline, config, baseline.Inputs(data=film_data), tmp_path / "out")
    assert (result.num_labeled, result.num_unlabeled) == (8, 0)
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test, train = (load_examples(film_data / f"{name}.jsonl") for name in ("test", "train"))
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)
    predicted = loaded.predict(train, SILENT, "").argmax(axis=1)
    assert [LABELS[index] for index in predicted] == [item.label for item in train]


@pytest.mark.parametrize("tune", ["full", "head"])
def test_held_out_logits_are_of_encoders_trained_on_the_other_folds(
    tune: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """The folds also leave the classifier as it is, which the last training alone decides."""
    config = config_of(backbone_folders["bert"], tune)
    short = config.model_copy(update={"training": SHORT if tune == "full" else None})
    member = short.model_copy(update={"num_folds": 2, "label_unlabeled": True})
    result = run(baseline, member, baseline.Inputs(data=film_data), tmp_path / "out")
    expected = held_out_by_hand(baseline, short, baseline.Inputs, film_data, num_folds=2)
    held_out = logits_of(tmp_path / "out", "held_out_logits")
    assert held_out == pytest.approx(expected, abs=1e-4)
    gold = [LABELS.index(item.label or "") for item in load_examples(film_data / "train.jsonl")]
    assert result.held_out_accuracy == pytest.approx((held_out.argmax(axis=1) == gold).mean())

    run(baseline, short, baseline.Inputs(data=film_data), tmp_path / "plain")
    assert logits_of(tmp_path / "plain") == pytest.approx(logits_of(tmp_path / "out"), abs=1e-6)


def test_fine_tuned_member_labels_the_unlabeled_set_and_is_loaded(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], "full", training=SHORT, num_folds=2, label_unlabeled=True)
    run(baseline, config, baseline.Inputs(data=film_data), tmp_path / "out")
    loaded = ModelLoader().load(tmp_path / "out")
    for name in ("test", "unlabeled"):
        examples = load_examples(film_data / f"{name}.jsonl")
        expected = logits_of(tmp_path / "out", f"{name}_logits")
        assert loaded.predict(examples, SILENT, "") == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("num_folds", "num_examples"), [(None, 8), (4, 2)])
def test_baseline_without_folds_has_no_held_out_accuracy(
    num_folds: int | None, num_examples: int, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """With one example per label nothing can be held out."""
    write_examples(film_data / "train.jsonl", film_examples(num_examples))
    config = config_of(backbone_folders["bert"], "full", training=SHORT, num_folds=num_folds, label_unlabeled=True)
    result = run(baseline, config, baseline.Inputs(data=film_data), tmp_path / "out")
    assert result.held_out_accuracy is None
    assert not (tmp_path / "out" / "held_out_logits.jsonl").exists()


def test_result_depends_on_the_seed_only(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    def once(seed: int, name: str) -> dict[str, bytes]:
        config = config_of(backbone_folders["bert"], "full", seed=seed, training=SHORT)
        run(baseline, config, baseline.Inputs(data=film_data), tmp_path / name)
        return written(tmp_path / name)

    assert_a_seed_decides(once)


@pytest.mark.parametrize("tune", ["full", "head"])
def test_training_settings_must_fit_tune(tune: str) -> None:
    with pytest.raises(ValueError, match="training"):
        config_of(Path("x"), tune, training=None if tune == "full" else TRAINING)


def test_baseline_without_labeled_examples_raises(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", [])
    with pytest.raises(
        InputError, match=r"the baseline needs labeled examples\. Add some, or remove baseline"
    ) as caught:
        run(baseline, config_of(backbone_folders["bert"], "head"), baseline.Inputs(data=film_data), tmp_path / "out")
    assert caught.value.key == "baseline"
