"""Writes a classifier as ONNX files, in float32 and with int8 weights, and reads them with onnxruntime alone.

Needs the extra `onnx`. onnxruntime runs the files on machines that have neither torch nor transformers. Letters in
names of arrays: B texts, L tokens, C labels.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.encoders.modeling_clozeline import ClozelineForSequenceClassification
from stages.common.plain_text import PlainText
from stages.common.protocols import Recorder

ONNX_FILE, INT8_FILE = "model.onnx", "model_int8.onnx"
BATCH_SIZE = 16


def write_onnx(folder: Path) -> None:
    """Writes `model.onnx` and `model_int8.onnx` next to the weights of a classifier in `folder`.

    Raises:
        InputError: the encoder has an operation that ONNX does not have.
    """
    # eager attention consists of plain operations
    model = ClozelineForSequenceClassification.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    model.eval()
    names = ["input_ids", "attention_mask"]
    if model.config.encoder.get("type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=model.config.max_tokens)}
    try:
        with torch.inference_mode(), _quiet():
            program = torch.onnx.export(
                model,
                # a tensor of its own for each input: two that are the same object would become one input
                kwargs={name: torch.ones(2, 7, dtype=torch.long) for name in names},
                dynamic_shapes=dict.fromkeys(names, axes),
                input_names=names,
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(folder / ONNX_FILE)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the encoder cannot be written as ONNX ({reason}).", "Add --no-onnx.") from error
    onnx.checker.check_model(folder / ONNX_FILE)
    with _quiet():
        quantize_dynamic(folder / ONNX_FILE, folder / INT8_FILE, weight_type=QuantType.QInt8)


class OnnxClassifier:
    """A classifier in an ONNX file. Tokens come from `tokenizer.json`, settings from `config.json`."""

    def __init__(self, folder: Path, file: str) -> None:
        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._fields = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))["fields"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._plain = PlainText(self._tokenizer)
        side = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(
            "truncation_side", "right"
        )
        self._tokenizer.enable_truncation(self._config["max_tokens"], direction=side)
        self._tokenizer.enable_padding()
        self._session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
        self._names = [item.name for item in self._session.get_inputs()]

    def predict(self, examples: Sequence[Example], recorder: Recorder, phase: str) -> NDArray[np.float64]:
        """Returns logits, [n, C], in the order of `examples`."""
        order = sorted(range(len(examples)), key=lambda row: sum(map(len, examples[row].fields.values())))
        logits = np.zeros((len(examples), len(self._config["id2label"])))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            logits[rows] = self._logits([examples[row] for row in rows])
            recorder.log_progress(start + len(rows), len(order), phase=phase)
        return logits

    def _logits(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        prefix, separator = self._config["prefix"], self._config["separator"]
        inputs: list[str | tuple[str, str]] = []
        for item in examples:
            first, *others = (self._plain(item.fields[name]) for name in self._fields)
            inputs.append((prefix + first, separator + prefix + " ".join(others)) if others else prefix + first)
        encoded = self._tokenizer.encode_batch(inputs)
        values = {
            "input_ids": [item.ids for item in encoded],
            "attention_mask": [item.attention_mask for item in encoded],
            "token_type_ids": [item.type_ids for item in encoded],
        }
        (logits_BC,) = self._session.run(None, {name: np.array(values[name]) for name in self._names})
        return np.asarray(logits_BC, dtype=np.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what exporter and quantizer report about their own progress."""
    levels = {name: logging.getLogger(name).level for name in ("onnxscript", "onnx_ir", "torch.onnx", "root")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
