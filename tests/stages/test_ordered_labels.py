"""Ordered labels in stages: members, a student, and the classifier that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from stages.baseline import stage as baseline
from stages.baseline.config import BaselineConfig
from stages.common.config import ORDINAL
from stages.common.examples import Example, load_examples, write_examples
from stages.common.models.encoders.config import EncoderConfig, StudentConfig
from stages.common.models.encoders.text_classifier import TextClassifier
from stages.common.problems import OrderedLabels
from stages.common.training.config import TrainingConfig
from stages.probe import stage as probe
from stages.probe.config import ContrastiveConfig, ProbeConfig
from stages.tfidf import stage as tfidf
from stages.tfidf.config import TfidfConfig
from tests.support.stage_runs import SILENT, run

WORDS = {"poor": "a dull story", "fair": "the songs are fine", "good": "the cast is great"}
TASK: dict[str, Any] = {"labels": tuple(WORDS), "fields": ("text",), "problem_type": ORDINAL}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 18), ("test", 12), ("unlabeled", 6)):
        examples = [
            Example(
                f"{name}-{number}", {"text": f"{'so ' * (number % 3)}{text}"}, label if name != "unlabeled" else None
            )
            for number, (label, text) in enumerate(list(WORDS.items()) * (count // 3))
        ]
        write_examples(folder / f"{name}.jsonl", examples)
    write_examples(folder / "dev.jsonl", [])
    return folder


@pytest.mark.parametrize("kind", ["tfidf", "probe"])
def test_members_measure_distances(kind: str, data: Path, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "tfidf":
        result = run(tfidf, TfidfConfig(**TASK), tfidf.Inputs(data=data), out)
    else:
        config = ProbeConfig(
            encoder=EncoderConfig(asset=str(backbone_folders["bert"]), max_length=32, precision="fp32"),
            contrastive=ContrastiveConfig(training=TrainingConfig(learning_rate=1e-3, batch_size=8, steps=20)),
            regularization_c=100.0, num_folds=2, **TASK,
        )  # fmt: skip
        result = run(probe, config, probe.Inputs(data=data), out)
    assert result.test.mae is not None and result.test.qwk is not None
    assert result.test.mae <= 2 * (1 - result.test.accuracy) + 1e-9
    assert json.loads((out / "result.json").read_text())["test"]["mae"] == result.test.mae


def test_transformers_loads_a_classifier_of_one_label(
    data: Path, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = BaselineConfig(
        student=StudentConfig(asset=str(backbone_folders["bert"]), max_length=32, precision="fp32"),
        training=TrainingConfig(learning_rate=3e-3, batch_size=8, steps=40), **TASK,
    )  # fmt: skip
    result = run(baseline, config, baseline.Inputs(data=data), tmp_path / "out")
    assert result.test.accuracy == 1.0 and result.test.mae == 0.0 and result.test.qwk == 1.0
    folder = tmp_path / "out" / "model"
    assert isinstance(TextClassifier.load(folder).problem, OrderedLabels)
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "single_label_classification"
    classify = pipeline("text-classification", str(folder), trust_remote_code=True)
    test_set = load_examples(data / "test.jsonl")
    predicted = TextClassifier.load(folder).predict(test_set, SILENT, "").argmax(axis=1)
    assert [classify(item.fields["text"])[0]["label"] for item in test_set] == [
        TASK["labels"][row] for row in predicted
    ]
