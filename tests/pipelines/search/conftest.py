"""Fixtures of the tests of the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.searched_recipe import write_searched_recipe


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small masked model. Weights are far larger than usual, so that logits differ."""
    import torch

    from tests.support.small_models import TOKENIZERS, small_model

    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = TOKENIZERS["bert"]()
    torch.manual_seed(7)
    model = small_model("bert", len(tokenizer), tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def searched_recipe(small_backbone: Path, tmp_path: Path) -> Path:
    """A recipe that tunes a prompt of the small model."""
    return write_searched_recipe(tmp_path, small_backbone)
