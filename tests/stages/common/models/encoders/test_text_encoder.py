"""Encoders of texts, the classifiers on them, and linear heads against scikit-learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stages.common.errors import AssetError, InputError
from stages.common.examples import Example
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.models.encoders.text_encoder import TextEncoder, pool
from stages.common.models.linear_heads import fit_logistic_regression
from tests.support.small_models import FAMILIES
from tests.support.stage_runs import LABELS, SILENT


def encoder(folder: Path, **settings: Any) -> StudentConfig:
    return StudentConfig(asset=str(folder), **({"max_length": 32, "precision": "fp32"} | settings))


# --- linear heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_labels", [2, 3, 5])
def test_a_linear_head_is_that_of_scikit_learn_on_repeated_texts(num_labels: int) -> None:
    drawn = torch.Generator().manual_seed(num_labels)
    features = torch.randn(60, 12, generator=drawn)
    targets = torch.softmax(2 * torch.randn(60, num_labels, generator=drawn), dim=1)
    stands_for = torch.rand(60, generator=drawn) * 3
    weight, bias = fit_logistic_regression(features, targets, 0.7, stands_for)
    assert (weight.shape, bias.shape) == ((num_labels, 12), (num_labels,))
    expected = LogisticRegression(C=0.7, tol=1e-9, max_iter=10_000).fit(
        np.tile(features.double().numpy(), (num_labels, 1)),
        np.repeat(range(num_labels), 60),
        sample_weight=(targets * stands_for[:, None]).T.double().numpy().ravel(),
    )
    found = torch.softmax(features @ weight.T + bias, dim=1).numpy()
    assert found == pytest.approx(expected.predict_proba(features.double().numpy()), abs=1e-4)


def test_a_label_that_never_occurs_is_never_predicted_and_changes_nothing_else() -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    gold = torch.nn.functional.one_hot((features[:, 0] > 0).long() * 2, 4)  # labels 0 and 2 of four
    weight, bias = fit_logistic_regression(features, gold, 5.0)
    assert weight.shape == (4, 6)
    probabilities = torch.softmax(features @ weight.T + bias, dim=1)
    assert probabilities[:, [1, 3]].max() < 1e-5
    assert weight[[1, 3]].abs().max() < 1e-3
    alone, alone_bias = fit_logistic_regression(features, gold[:, [0, 2]], 5.0 * 2)  # its one vector is twice as dear
    expected = torch.softmax(features @ alone.T + alone_bias, dim=1)
    assert torch.allclose(probabilities[:, [0, 2]], expected, atol=1e-4)


# --- encoders -----------------------------------------------------------------------------------------------------


def test_pooling_reads_the_first_the_last_or_all_tokens() -> None:
    states = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]], [[3.0, 30.0], [5.0, 50.0], [9.0, 90.0]]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert pool(states, mask, "cls").tolist() == [[1, 10], [3, 30]]
    assert pool(states, mask, "last").tolist() == [[6, 60], [5, 50]]
    assert pool(states, mask, "mean").tolist() == [[3, 30], [4, 40]]


TEXTS = ("dull", "the film is a warm and clever story about two sisters , and it was great .", "it was bad")


@pytest.mark.parametrize(
    ("name", "pooling"),
    [*((name, pooling) for name in FAMILIES for pooling in ("mean", "last")), ("bert", "cls"), ("roberta", "cls")],
)
def test_any_language_model_serves_as_encoder_and_loads_as_it_was_saved(
    name: str, pooling: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(backbone_folders[name], tmp_path / name)
    classifier = TextClassifier.from_encoder(encoder(folder, pooling=pooling), LABELS, ("text",), 0)
    examples = [Example(text, {"text": text}) for text in TEXTS]
    together = classifier.predict(examples, SILENT, "")
    alone = np.concatenate([classifier.predict([item], SILENT, "") for item in examples])
    assert together == pytest.approx(alone, abs=1e-3), "padding is no part of a text"
    assert np.abs(together[0] - together[1]).max() > 0.01
    classifier.save(tmp_path / "saved")
    shutil.rmtree(folder)
    loaded = TextClassifier.load(tmp_path / "saved")
    assert loaded.predict(examples, SILENT, "") == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_computes_what_the_language_model_does(name: str, backbone_folders: dict[str, Path]) -> None:
    """The last token's state, from the model with its head and without any padding."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, T5EncoderModel

    kinds = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "t5": T5EncoderModel}
    kind = kinds.get(name, AutoModelForMaskedLM)
    plain = kind.from_pretrained(backbone_folders[name], dtype=torch.float32).eval()
    reader = TextEncoder.of(EncoderConfig(asset=str(backbone_folders[name]), pooling="last"), ("text",))
    found = reader.embed([Example(text, {"text": text}) for text in TEXTS], SILENT, "")
    for row, text in zip(found, TEXTS, strict=True):
        ids = torch.tensor([reader.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            states = plain(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(row, states[0, -1], atol=1e-3)


def test_a_student_reads_two_fields_as_a_pair(backbone_folders: dict[str, Path]) -> None:
    classifier = TextClassifier.from_encoder(encoder(backbone_folders["bert"]), LABELS, ("b", "a"), 0)
    example = Example("1", {"a": "the film", "b": "it was dull"})
    ids = classifier.encoder.tokenizer("it was dull", "the film", return_tensors="pt")
    assert ids["token_type_ids"].sum() > 0
    classifier.train_mode(False)
    with torch.inference_mode():
        hidden = classifier.encoder.model(**ids).last_hidden_state
        expected = classifier.head(hidden.mean(dim=1))
        assert torch.allclose(classifier.logits([example]), expected, atol=1e-5)


def test_where_a_vocabulary_has_no_separator_a_pair_is_two_lines(backbone_folders: dict[str, Path]) -> None:
    example = Example("1", {"a": "the film", "b": "it was dull"})
    for name, expected in (("gpt2", "it was dull\nthe film"), ("bert", "it was dullthe film")):
        reader = TextEncoder.of(encoder(backbone_folders[name]), ("b", "a"))
        assert "".join(reader.texts(example)) == expected


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_first_token_of_a_causal_model_is_refused(name: str, backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"reads nothing but itself.*Take pooling: mean or last"):
        TextEncoder.of(encoder(backbone_folders[name], pooling="cls"), ("text",))


def test_a_student_without_a_usable_model_is_refused(tmp_path: Path) -> None:
    config = StudentConfig(asset=str(tmp_path))
    with pytest.raises(AssetError, match=r"holds no config\.json"):
        TextClassifier.from_encoder(config, LABELS, ("text",), 0)
    for kind in ("bart", "nothing-known"):
        about = {"model_type": kind, "is_encoder_decoder": True, "architectures": ["SomeForConditionalGeneration"]}
        (tmp_path / "config.json").write_text(json.dumps(about))
        with pytest.raises(AssetError, match=r"cannot be loaded.*Name an encoder or a language model"):
            TextClassifier.from_encoder(config, LABELS, ("text",), 0)
