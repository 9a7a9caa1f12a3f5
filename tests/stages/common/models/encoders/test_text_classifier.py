"""Tests of text classifiers: any language model can be the encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from stages.common.errors import AssetError
from stages.common.examples import Example
from stages.common.metrics.classification import softmax
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.encoders.text_classifier import TRAINED_VECTOR_NORM, TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder
from tests.support.small_models import FAMILIES
from tests.support.stage_runs import LABELS, SILENT


def encoder(folder: Path, **settings: Any) -> StudentConfig:
    return StudentConfig(asset=str(folder), **({"max_length": 32, "precision": "fp32"} | settings))


TEXTS = ("dull", "the film is a warm and clever story about two sisters , and it was great .", "it was bad")


@pytest.mark.parametrize(
    ("name", "pooling"),
    [*((name, pooling) for name in FAMILIES for pooling in ("mean", "last")), ("bert", "cls"), ("roberta", "cls")],
)
def test_classifier_on_any_language_model_is_saved_and_loaded(
    name: str, pooling: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(backbone_folders[name], tmp_path / name)
    classifier = TextClassifier.from_encoder(encoder(folder, pooling=pooling), LABELS, ("text",), 0)
    examples = [Example(text, {"text": text}) for text in TEXTS]
    batched = classifier.predict(examples, SILENT, "")
    separate = np.concatenate([classifier.predict([item], SILENT, "") for item in examples])
    assert batched == pytest.approx(separate, abs=1e-3), "padding does not count"
    assert np.abs(batched[0] - batched[1]).max() > 0.01
    classifier.save(tmp_path / "saved")
    shutil.rmtree(folder)
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.predict(examples, SILENT, "") == pytest.approx(batched, abs=1e-6)


@pytest.mark.parametrize("only_head", [True, False])
def test_loaded_classifier_has_the_prefix(only_head: bool, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = backbone_folders["bert"]
    classifier = TextClassifier.from_encoder(encoder(folder, prefix="so "), LABELS, ("text",), 0)
    examples = [Example(text, {"text": text}) for text in TEXTS]
    expected = classifier.predict(examples, SILENT, "")
    (tmp_path / "saved").mkdir()
    classifier.save_head(tmp_path / "saved", str(folder)) if only_head else classifier.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.encoder.prefix == "so "
    assert loaded.predict(examples, SILENT, "") == pytest.approx(expected, abs=1e-6)


def test_classifier_reads_two_fields_as_a_pair(backbone_folders: dict[str, Path]) -> None:
    classifier = TextClassifier.from_encoder(encoder(backbone_folders["bert"]), LABELS, ("b", "a"), 0)
    example = Example("1", {"a": "the film", "b": "it was dull"})
    ids = classifier.encoder.tokenizer("it was dull", "the film", return_tensors="pt")
    assert ids["token_type_ids"].sum() > 0
    classifier.train_mode(False)
    with torch.inference_mode():
        hidden = classifier.encoder.model(**ids).last_hidden_state
        expected = classifier.head(TRAINED_VECTOR_NORM * F.normalize(hidden.mean(dim=1), dim=1))
        assert torch.allclose(classifier.logits([example]), expected, atol=1e-5)


def test_classifier_rejects_an_unusable_model(tmp_path: Path) -> None:
    config = StudentConfig(asset=str(tmp_path))
    with pytest.raises(AssetError, match=r"has no config\.json"):
        TextClassifier.from_encoder(config, LABELS, ("text",), 0)
    for kind in ("bart", "nothing-known"):
        metadata = {"model_type": kind, "is_encoder_decoder": True, "architectures": ["SomeForConditionalGeneration"]}
        (tmp_path / "config.json").write_text(json.dumps(metadata))
        with pytest.raises(AssetError, match=r"cannot be loaded.*Specify an encoder or a language model"):
            TextClassifier.from_encoder(config, LABELS, ("text",), 0)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("fields", [("text",), ("text", "other")])
def test_transformers_loads_the_folder_and_gives_the_same_probabilities(
    name: str, fields: tuple[str, ...], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = encoder(backbone_folders[name], prefix="so ", max_length=16)
    classifier = TextClassifier.from_encoder(config, LABELS, fields, 0)
    examples = [Example(text, {"text": text, "other": "it was " + text}) for text in (*TEXTS, TEXTS[1] * 9)]
    expected = softmax(classifier.predict(examples, SILENT, ""))
    classifier.save(tmp_path / "saved")
    classify = transformers.pipeline("text-classification", str(tmp_path / "saved"), trust_remote_code=True)
    inputs = [
        {"text": item.fields["text"], "text_pair": item.fields["other"]} if len(fields) > 1 else item.fields["text"]
        for item in examples
    ]
    for batch_size in (1, 4):
        answers = classify(inputs, top_k=None, batch_size=batch_size)
        scores = [{answer["label"]: answer["score"] for answer in row} for row in answers]
        found = np.array([[row[label] for label in LABELS] for row in scores])
        assert found == pytest.approx(expected, abs=1e-5)


def test_transformers_refuses_the_folder_without_trust(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    TextClassifier.from_encoder(encoder(backbone_folders["bert"]), LABELS, ("text",), 0).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.pipeline("text-classification", str(tmp_path / "saved"), trust_remote_code=False)


def test_folder_of_a_classifier_is_an_encoder_too(
    backbone_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "n")
    classifier = TextClassifier.from_encoder(encoder(backbone_folders["bert"]), LABELS, ("text",), 0)
    classifier.save(tmp_path / "saved")
    examples = [Example(text, {"text": text}) for text in TEXTS]
    reader = TextEncoder.of(EncoderConfig(asset=str(tmp_path / "saved"), max_length=32), ("text",))
    assert torch.equal(reader.embed(examples, SILENT, ""), classifier.encoder.embed(examples, SILENT, ""))
    assert not questions, "transformers asks before it runs code"
    assert str(backbone_folders["bert"]) not in (tmp_path / "saved" / "config.json").read_text()
