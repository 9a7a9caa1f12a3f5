"""Tests of the stage of averaged word vectors, compared with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from stages.common.errors import InputError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.metrics.classification import softmax
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.prompts.loader import ModelLoader
from stages.word_vectors import stage as word_vectors
from stages.word_vectors.config import WordVectorConfig
from tests.support.stage_runs import LABELS, SILENT, logits_of, run


def config(folder: Path) -> WordVectorConfig:
    return WordVectorConfig(asset=str(folder), labels=LABELS, fields=("text",), num_folds=2)


def averages(folder: Path, examples: list[Example]) -> np.ndarray:
    """Returns the mean of the embeddings of each text, which are centered, without the code under test."""
    encoder = TextEncoder.of(EncoderConfig(asset=str(folder)), ("text",))
    table = encoder.model.get_input_embeddings().weight.detach().numpy()
    ids = [encoder.tokenizer(item.fields["text"], add_special_tokens=False)["input_ids"] for item in examples]
    return np.stack([table[row].mean(axis=0) - table.mean(axis=0) for row in ids])


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_word_vectors_are_logistic_regression_on_averages(
    family: str, backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path
) -> None:
    folder = backbone_folders[family]
    result = run(word_vectors, config(folder), word_vectors.Inputs(data=film_data), tmp_path / "out")
    train, test = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "test"))
    features = averages(folder, train)
    scale = 1 / np.sqrt(np.square(features).sum(axis=1).mean())
    gold = [LABELS.index(item.label or "") for item in train]
    expected = LogisticRegression(C=1.0, tol=1e-8).fit(features * scale, gold)
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(
        expected.predict_proba(averages(folder, test) * scale), abs=1e-3
    )
    assert result.trainable_parameters == 2 * (features.shape[1] + 1)
    assert result.held_out_accuracy is not None
    loaded = ModelLoader().load(tmp_path / "out")
    assert loaded.predict(test, SILENT, "") == pytest.approx(logits_of(tmp_path / "out"), abs=1e-5)


def test_without_labels_raises(backbone_folders: dict[str, Path], film_data: Path, tmp_path: Path) -> None:
    write_examples(film_data / "train.jsonl", [])
    with pytest.raises(InputError, match="need labeled examples"):
        run(word_vectors, config(backbone_folders["bert"]), word_vectors.Inputs(data=film_data), tmp_path / "out")
