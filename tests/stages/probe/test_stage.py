"""Tests of the probe stage: the fitted head, the cross-validated accuracy, and the files of a member."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from stages.common.errors import AssetError, InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.metrics.classification import softmax
from stages.common.models.config import CONTENT_FREE_TEXTS
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.probe import stage as probe
from stages.probe.config import ProbeConfig
from tests.support.small_models import film_examples
from tests.support.stage_runs import LABELS, SILENT, Kept, logits_of, run, written


def config_of(folder: Path, **settings: Any) -> ProbeConfig:
    encoder = EncoderConfig(asset=str(folder), max_length=32, precision="fp32")
    return ProbeConfig(labels=LABELS, fields=("text",), encoder=encoder, **settings)


def unit(config: ProbeConfig, examples: list[Example]) -> np.ndarray:
    vectors = TextEncoder.of(config.encoder, config.fields).embed(examples, SILENT, "").double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("regularization_c", [1.0, 30.0])
def test_probe_is_logistic_regression_on_unit_vectors(
    regularization_c: float, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], regularization_c=regularization_c)
    recorder = Kept()
    result = run(probe, config, probe.Inputs(data=film_data), tmp_path / "out", recorder)
    train, test, unlabeled_set = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test", "unlabeled"))
    model = LogisticRegression(C=regularization_c, tol=1e-8, max_iter=10_000)
    expected = model.fit(unit(config, train), [LABELS.index(item.label) for item in train])
    content_free = [Example(text, {"text": text}) for text in CONTENT_FREE_TEXTS]
    for name, texts in (
        ("test_logits", test),
        ("unlabeled_logits", unlabeled_set),
        ("content_free_logits", content_free),
    ):
        assert softmax(logits_of(tmp_path / "out", name)) == pytest.approx(
            expected.predict_proba(unit(config, texts)), abs=2e-4
        )
    assert (result.num_labeled, result.num_unlabeled, result.trainable_parameters) == (8, 0, 2 * 32 + 2)
    assert recorder.metrics["test/accuracy"] == result.test.accuracy
    is_right = expected.predict(unit(config, test)) == [LABELS.index(item.label) for item in test]
    assert result.test.accuracy == pytest.approx(is_right.mean(), abs=1e-6)


def test_held_out_logits_are_cross_validated(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Four examples per label: each of four folds leaves out one example of each label."""
    config = config_of(backbone_folders["bert"], regularization_c=100.0)
    result = run(probe, config, probe.Inputs(data=film_data), tmp_path / "out")
    train = load_examples(film_data / "train.jsonl")
    vectors, gold = unit(config, train), np.array([LABELS.index(item.label) for item in train])
    expected = np.zeros((8, 2))
    for first in range(0, 8, 2):  # labels come in turn
        held_out = np.isin(range(8), (first, first + 1))
        model = LogisticRegression(C=100.0, tol=1e-8, max_iter=10_000).fit(vectors[~held_out], gold[~held_out])
        expected[held_out] = model.predict_proba(vectors[held_out])
    assert softmax(logits_of(tmp_path / "out", "held_out_logits")) == pytest.approx(expected, abs=2e-4)
    assert result.held_out_accuracy == (expected.argmax(axis=1) == gold).mean()


def test_saved_probe_is_a_head_with_a_reference(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    run(probe, config_of(backbone_folders["bert"]), probe.Inputs(data=film_data), tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "model").iterdir()) < 2000
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(film_data / "test.jsonl")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_changed_encoder_raises(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(backbone_folders["bert"], tmp_path / "bert")
    run(probe, config_of(folder), probe.Inputs(data=film_data), tmp_path / "out")
    (folder / "more.txt").write_text("another revision")
    with pytest.raises(AssetError, match=r"classifier in .*"):
        TextClassifier.load(tmp_path / "out" / "model")
    shutil.rmtree(folder)
    with pytest.raises(AssetError, match="does not exist"):
        TextClassifier.load(tmp_path / "out" / "model")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_text_is_embedded_once_and_the_probe_is_deterministic(
    precision: str,
    backbone_folders: dict[str, Path],
    film_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[tuple[str, bool]] = []
    pooled = TextEncoder.pooled

    def counting(
        self: TextEncoder, examples: list[Example], *, bf16: bool = False, pad_to_multiple: bool = False
    ) -> torch.Tensor:
        read.extend((item.uid, bf16) for item in examples)
        return pooled(self, examples, bf16=bf16, pad_to_multiple=pad_to_multiple)

    monkeypatch.setattr(TextEncoder, "pooled", counting)
    config = config_of(backbone_folders["bert"])
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update={"precision": precision})})
    run(probe, config, probe.Inputs(data=film_data), tmp_path / "first")
    num_texts = 8 + 10 + 3 + 12
    assert len(set(read[:num_texts])) == num_texts
    assert len(read) == num_texts + 12, "the test texts again, to measure the speed"
    assert {bf16 for _, bf16 in read} == {precision == "bf16"}
    run(probe, config, probe.Inputs(data=film_data), tmp_path / "again-with-other-rng-state")
    assert written(tmp_path / "first") == written(tmp_path / "again-with-other-rng-state")


def test_probe_without_labeled_examples_raises(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    write_examples(film_data / "train.jsonl", [])
    with pytest.raises(InputError, match="a probe needs labeled examples"):
        run(probe, config_of(backbone_folders["bert"]), probe.Inputs(data=film_data), tmp_path / "out")


def test_separate_texts_of_a_pair_are_compared(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """The labels say whether both texts are equal: a head on the joined texts is at chance, and one that compares the
    two vectors is always right."""
    films = [item.fields["text"] for item in film_examples(48)]
    data = tmp_path / "data"
    data.mkdir()
    for name, start in (("train", 0), ("test", 24)):
        rows = [
            Example(str(row), {"a": films[row], "b": films[row if row % 2 else (row + 5) % 24]}, LABELS[row % 2])
            for row in range(start, start + 24)
        ]
        write_examples(data / f"{name}.jsonl", rows)
    write_examples(data / "unlabeled.jsonl", [])
    encoder = EncoderConfig(asset=str(backbone_folders["bert"]), max_length=32, precision="fp32")
    config = ProbeConfig(labels=LABELS, fields=("a", "b"), encoder=encoder, pairs="separate")
    result = run(probe, config, probe.Inputs(data=data), tmp_path / "out")
    assert result.test.accuracy == 1 and result.held_out_accuracy == 1
    joined = run(probe, config.model_copy(update={"pairs": "joined"}), probe.Inputs(data=data), tmp_path / "joined")
    assert joined.test.accuracy < 0.9
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(data / "test.jsonl")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_tuned_encoders_do_not_compare(backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match=r"not the two texts of a pair.*Remove contrastive"):
        config_of(backbone_folders["bert"], pairs="separate", contrastive={})
