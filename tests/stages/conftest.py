"""Fixtures of all stage tests. Models are built once a session and loaded by path, like any other model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.examples import Example, write_examples
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from tests.support.small_models import FAMILIES, TOKENIZERS, backbone_config, film_examples, small_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family name -> folder with model and tokenizer. Weights are far larger than usual, so that logits differ."""
    root = tmp_path_factory.mktemp("backbones")
    for name in FAMILIES:
        tokenizer = TOKENIZERS[name]()
        torch.manual_seed(7)
        model = small_model(name, len(tokenizer), tokenizer)
        with torch.no_grad():
            for title, weight in model.named_parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.25 if "embed" not in title else 0.5)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in FAMILIES}


@pytest.fixture(scope="session")
def backbones(backbone_folders: dict[str, Path]) -> dict[str, Backbone]:
    """Family name -> frozen float32 backbone; tests must not change its weights."""
    return {name: load_backbone(backbone_config(folder), frozen=True) for name, folder in backbone_folders.items()}


@pytest.fixture
def film_data(tmp_path: Path) -> Path:
    """Files of the split stage: 8 labeled, 10 unlabeled and 12 test reviews."""
    folder = tmp_path / "data"
    folder.mkdir()
    unlabeled_set = film_examples(10, start=100)
    write_examples(folder / "train.jsonl", film_examples(8))
    write_examples(folder / "unlabeled.jsonl", [Example(item.uid, item.fields) for item in unlabeled_set])
    write_examples(folder / "unlabeled_gold.jsonl", unlabeled_set)
    write_examples(folder / "dev.jsonl", [])
    write_examples(folder / "test.jsonl", film_examples(12, start=200))
    return folder
