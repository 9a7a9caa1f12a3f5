"""`export` writes a folder that transformers, onnxruntime and clozeline load, with the same labels."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.serving.loading import load_predictor
from stages.common.errors import InputError


def export(store: Path, folder: Path, *options: str) -> str:
    command = ["export", "smoke", "--store", str(store), "--output", str(folder), *options]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    return result.stdout + result.stderr


def test_exported_folder_gives_the_same_labels_everywhere(smoke_run: tuple[Path, str], tmp_path: Path) -> None:
    store, _ = smoke_run
    output = export(store, tmp_path / "model", "--license", "data.pool=CC-BY-4.0")
    names = {"README.md", "config.json", "classifier.json", "model.safetensors", "tokenizer.json"}
    names |= {"modeling_clozeline.py", "model.onnx", "model_int8.onnx"}
    assert names <= {path.name for path in (tmp_path / "model").iterdir()}
    assert not [path for path in (tmp_path / "model").iterdir() if path.suffix in (".bin", ".pkl", ".pt", ".joblib")]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| `data.pool` |" in card
    assert "CC-BY-4.0" in card
    assert "Apache-2.0" in card, "the license of the package of the backbone, which its teachers used"
    assert "model_int8.onnx" in output
    assert "100.0%" in output, "all labels of model.onnx are the same"
    predictor = load_predictor([tmp_path / "model"])
    (expected,) = predictor.predict([predictor.parse_row({"text": "Some text."}, "1")])
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 2
    for code in blocks:
        program = code.replace("FOLDER", str(tmp_path / "model"))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)
        assert expected["label"] in done.stdout


def test_existing_folder_and_unknown_source_are_errors(smoke_run: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="exists"):
        export(smoke_run[0], tmp_path / "model")
    with pytest.raises(InputError, match=r"'data\.poll' is no model or data set"):
        export(smoke_run[0], tmp_path / "new", "--license", "data.poll=MIT")
    assert not (tmp_path / "new").exists()
