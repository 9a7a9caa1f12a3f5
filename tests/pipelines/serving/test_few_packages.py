"""A service without Ray, DeepSpeed and MLflow: the packages of `serve-requirements.txt` suffice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.served_prompts import TEXTS, save_backbone, save_prompts
from tests.support.services import service

REQUIREMENTS = ROOT / "cluster/deploy/serve-requirements.txt"
PROGRAM = ROOT / "tests/support/programs/few_packages.py"


@pytest.mark.timeout(300)
def test_models_predict_and_serve_with_few_packages(tmp_path: Path) -> None:
    """A classifier predicts a file, and prompts are served, in one process without the other packages."""
    from stages.common.models.encoders.config import StudentConfig
    from stages.common.models.encoders.text_classifier import TextClassifier

    backbone = save_backbone(tmp_path / "backbone")
    (prompt,) = save_prompts(backbone, tmp_path, {"films": 1})
    config = StudentConfig(asset=str(backbone), max_length=32)
    TextClassifier.from_encoder(config, ("bad", "good"), ("text",), 0).save(tmp_path / "classifier")
    source, output = tmp_path / "texts.txt", tmp_path / "labels.jsonl"
    source.write_text("\n".join(TEXTS))
    program = (str(PROGRAM), str(REQUIREMENTS), str(tmp_path / "classifier"), str(source), str(output))
    with service(str(prompt), program=program) as server:
        predictions = server.predict(TEXTS)
    assert [set(item["probabilities"]) for item in predictions] == [{"rotten", "fresh"}] * 3
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [set(row["probabilities"]) for row in rows] == [{"bad", "good"}] * 3
