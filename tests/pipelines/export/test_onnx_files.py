"""ONNX files give what the classifier gives, for texts of any length and for pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.export.onnx_files import INT8_FILE, ONNX_FILE, OnnxClassifier, write_onnx
from stages.common.examples import Example
from stages.common.models.encoders.config import StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.protocols import NullRecorder
from tests.support.small_models import SENTENCES, TOKENIZERS, small_model

SILENT = NullRecorder()


@pytest.mark.parametrize(("name", "fields"), [("bert", ("text", "other")), ("llama", ("text",))])
def test_onnx_files_give_the_same_labels(name: str, fields: tuple[str, ...], tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    torch.manual_seed(3)
    small_model(name, len(tokenizer), tokenizer).save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / name)
    config = StudentConfig(asset=str(tmp_path / name), max_length=24, precision="fp32", prefix="so ")
    classifier = TextClassifier.from_encoder(config, ("bad", "good", "odd"), fields, 0)
    classifier.save(tmp_path / "saved")
    texts = [*SENTENCES, "dull", " ".join(SENTENCES)]
    examples = [Example(text, {"text": text, "other": f"it was {text}"}) for text in texts]
    expected = classifier.predict(examples, SILENT, "")

    write_onnx(tmp_path / "saved")

    exact = OnnxClassifier(tmp_path / "saved", ONNX_FILE).predict(examples, SILENT, "")
    assert exact == pytest.approx(expected, abs=1e-4)
    rounded = OnnxClassifier(tmp_path / "saved", INT8_FILE).predict(examples, SILENT, "")
    assert rounded == pytest.approx(expected, abs=0.3)
    assert np.abs(rounded - expected).max() > 1e-4, "its weights are rounded"
    assert (tmp_path / "saved" / INT8_FILE).stat().st_size < (tmp_path / "saved" / ONNX_FILE).stat().st_size
