"""Probes: what they fit, how they judge themselves, and the files of a member."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.common.data.split_files import load_examples, write_examples
from stages.common.errors import AssetError, InputError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.averaging import CONTENT_FREE_TEXTS
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.probe import stage as probe
from stages.probe.config import ProbeConfig
from stages.probe.stage import cross_validated_accuracy
from tests.support.stage_runs import LABELS, SILENT, Kept, logits_of, run, written


def config_of(folder: Path, **settings: Any) -> ProbeConfig:
    encoder = EncoderConfig(asset=str(folder), max_length=32, precision="fp32")
    return ProbeConfig(labels=LABELS, fields=("text",), encoder=encoder, **settings)


def unit(config: ProbeConfig, examples: list[Example]) -> np.ndarray:
    vectors = TextEncoder.of(config.encoder, config.fields).embed(examples, SILENT, "").double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_a_probe_is_logistic_regression_on_unit_vectors(
    strength: float, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    config = config_of(backbone_folders["bert"], regularization_c=strength)
    recorder = Kept()
    result = run(probe, config, probe.Inputs(data=film_data), tmp_path / "out", recorder)
    train, test, pile = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test", "unlabeled"))
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    expected = model.fit(unit(config, train), [LABELS.index(item.label) for item in train])
    neutral = [Example(text, {"text": text}) for text in CONTENT_FREE_TEXTS]
    for name, texts in (("test_logits", test), ("unlabeled_logits", pile), ("content_free_logits", neutral)):
        found = softmax(logits_of(tmp_path / "out", name))
        assert found == pytest.approx(expected.predict_proba(unit(config, texts)), abs=2e-4)
    assert (result.num_labeled, result.num_unlabeled, result.trainable_parameters) == (8, 0, 2 * 32 + 2)
    assert recorder.metrics["test/accuracy"] == result.test.accuracy
    right = expected.predict(unit(config, test)) == [LABELS.index(item.label) for item in test]
    assert result.test.accuracy == pytest.approx(right.mean(), abs=1e-6)


def test_a_probe_weighs_what_it_gets_right_of_texts_that_it_has_not_seen(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    """Four texts a label: in four folds the i-th of each label is left out, which turns are leave-two-out."""
    config = config_of(backbone_folders["bert"], regularization_c=100.0)
    result = run(probe, config, probe.Inputs(data=film_data), tmp_path / "out")
    train = load_examples(film_data / "train.jsonl")
    vectors, gold = unit(config, train), np.array([LABELS.index(item.label) for item in train])
    num_right = 0
    for first in range(0, 8, 2):  # labels come in turn
        out = np.isin(range(8), (first, first + 1))
        model = LogisticRegression(C=100.0, tol=1e-8, max_iter=10_000).fit(vectors[~out], gold[~out])
        num_right += int((model.predict(vectors[out]) == gold[out]).sum())
    assert result.train_accuracy_before_training == num_right / 8


def test_labels_that_contradict_each_other_give_no_accuracy() -> None:
    """Every text has a twin of the other label that is held out at another time: all are wrong."""
    features = torch.cat([torch.eye(4), torch.eye(4).roll(1, dims=0)])
    gold = torch.tensor([0] * 4 + [1] * 4)
    assert cross_validated_accuracy(features, gold, 2, 100.0) == 0.0


def test_clusters_are_told_apart_even_where_a_label_has_one_text() -> None:
    drawn = torch.Generator().manual_seed(0)
    gold = torch.tensor([0] * 12 + [1] * 12 + [2])
    features = torch.eye(3)[gold] + 0.01 * torch.randn(25, 3, generator=drawn)
    assert cross_validated_accuracy(features, gold, 3, 100.0) == 24 / 25, "the single text cannot be held out"


def test_with_one_text_a_label_a_probe_weighs_as_much_as_guessing() -> None:
    assert cross_validated_accuracy(torch.eye(3), torch.arange(3), 3, 1.0) == pytest.approx(1 / 3, abs=1e-6)


def test_a_saved_probe_holds_its_head_alone_and_finds_its_encoder(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    run(probe, config_of(backbone_folders["bert"]), probe.Inputs(data=film_data), tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "model").iterdir()) < 2000
    loaded = TextClassifier.load(tmp_path / "out" / "model")
    test = load_examples(film_data / "test.jsonl")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=2e-5)


def test_a_probe_whose_encoder_changed_is_refused(
    backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(backbone_folders["bert"], tmp_path / "bert")
    run(probe, config_of(folder), probe.Inputs(data=film_data), tmp_path / "out")
    (folder / "more.txt").write_text("another revision")
    with pytest.raises(AssetError, match=r"is not what the classifier in .* was fitted on"):
        TextClassifier.load(tmp_path / "out" / "model")
    shutil.rmtree(folder)
    with pytest.raises(AssetError, match="does not exist"):
        TextClassifier.load(tmp_path / "out" / "model")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_text_is_embedded_once_and_a_probe_repeats_itself(
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
    assert len(read) == len(set(read)) == 8 + 10 + 3 + 12
    assert {bf16 for _, bf16 in read} == {precision == "bf16"}
    run(probe, config, probe.Inputs(data=film_data), tmp_path / "again-after-other-draws")
    assert written(tmp_path / "first") == written(tmp_path / "again-after-other-draws")


def test_a_probe_without_labels_is_refused(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "train.jsonl", [])
    with pytest.raises(InputError, match="a probe learns from labelled examples, and there are none"):
        run(probe, config_of(backbone_folders["bert"]), probe.Inputs(data=film_data), tmp_path / "out")
