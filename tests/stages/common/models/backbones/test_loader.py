"""Tests of loading backbones."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from stages.common.errors import AssetError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import borrow_backbone, load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.protocols import NullRecorder
from tests.support.small_models import backbone_config, film_examples, film_task


def words(backbone: Backbone) -> list[int]:
    return [backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1] for word in ("good", "bad", "no")]


def test_load_backbone_uses_float32_for_training(backbone_folders: dict[str, Path]) -> None:
    config = backbone_config(backbone_folders["gpt2"]).model_copy(update={"precision": "bf16"})
    trained, frozen = load_backbone(config, frozen=False), load_backbone(config, frozen=True)
    assert trained.model.dtype == torch.float32
    assert all(weight.requires_grad for weight in trained.model.parameters())
    assert frozen.model.dtype == torch.bfloat16
    assert not any(weight.requires_grad for weight in frozen.model.parameters())
    assert not frozen.model.training


@pytest.mark.parametrize("text", [None, "{half a file"])
def test_load_backbone_rejects_a_folder_without_config(text: str | None, tmp_path: Path) -> None:
    if text:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(AssetError, match=r"no readable config\.json") as caught:
        load_backbone(backbone_config(tmp_path), frozen=True)
    assert "transformers model" in caught.value.remedy


def test_load_backbone_rejects_pickled_weights(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(backbone_folders["bert"], folder)
    (folder / "model.safetensors").unlink()
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(AssetError, match="pickled file") as caught:
        load_backbone(backbone_config(folder), frozen=True)
    assert "save_pretrained" in caught.value.remedy
    with pytest.raises(AssetError, match="pickled file"):
        TextEncoder.of(EncoderConfig(asset=str(folder)), ["text"])
    assert not ran.exists()


def test_eval_batch_tokens_limits_a_pass(backbone_folders: dict[str, Path]) -> None:
    actual: dict[int | None, list[torch.Size]] = {}
    for asked in (None, 64):
        config = backbone_config(backbone_folders["bert"]).model_copy(update={"eval_batch_tokens": asked})
        with borrow_backbone(config) as backbone:
            passes = actual[asked] = []
            words = backbone.model.get_input_embeddings()
            watch = words.register_forward_hook(lambda _, ids, __, kept=passes: kept.append(ids[0].shape))
            classifier = ClozeClassifier.of(film_task("bert"), "review", backbone, config)
            classifier.predict(film_examples(12), NullRecorder(), "")
            watch.remove()
    assert len(actual[None]) == 1
    assert len(actual[64]) > 1 and all(shape.numel() <= 64 for shape in actual[64])


def test_load_backbone_rejects_a_head_without_weights(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(backbone_folders["bert"], folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "transform" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(AssetError, match=r"have no cls\.predictions\.transform.*BertForMaskedLM") as caught:
        load_backbone(backbone_config(folder), frozen=True)
    assert "trained language-model head" in caught.value.remedy


def test_load_backbone_rejects_a_truncated_file(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(backbone_folders["bert"], folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(AssetError, match="cannot be read"):
        load_backbone(backbone_config(folder), frozen=True)


def test_load_backbone_rejects_a_tokenizer_with_more_tokens_than_embeddings(
    backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(backbone_folders["llama"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["unembedded"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(AssetError, match="has ids up to"):
        load_backbone(backbone_config(folder), frozen=True)


@pytest.mark.parametrize("settings", [{"architectures": ["ElectraForPreTraining"]}, {"model_type": "deberta-v2"}])
def test_load_backbone_rejects_a_checkpoint_without_lm_head(settings: dict[str, Any], tmp_path: Path) -> None:
    """ELECTRA's discriminators, and DeBERTa v3, whose config.json names no architecture."""
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(AssetError, match=r"(ElectraForPreTraining|deberta-v2).*no language-model head") as caught:
        load_backbone(backbone_config(tmp_path), frozen=True)
    assert "BERT, RoBERTa" in caught.value.remedy
