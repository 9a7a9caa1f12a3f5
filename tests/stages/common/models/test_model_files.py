"""Tests of checks of model folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.common.errors import AssetError
from stages.common.models.backbones.config import BackboneConfig
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.encoders.config import EncoderConfig
from stages.common.models.encoders.text_encoder import TextEncoder
from stages.common.models.gguf import translate_gguf
from stages.common.models.model_files import family_of
from stages.common.models.tokenizers import load_tokenizer
from stages.common.patterns.encoding import Encoded


@pytest.mark.parametrize(
    ("name", "family"),
    [("bert", "masked"), ("roberta", "masked"), ("llama", "causal"), ("gpt2", "causal"), ("t5", "seq2seq")],
)
def test_family_of_reads_the_saved_model(name: str, family: str, backbone_folders: dict[str, Path]) -> None:
    assert family_of(backbone_folders[name]) == family


def test_family_of_bert_for_pretraining_is_masked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForPreTraining"]}))
    assert family_of(tmp_path) == "masked"


@pytest.mark.parametrize(
    "config", [{"architectures": ["BertForSequenceClassification"]}, {"architectures": None}, {"model_type": "bert"}]
)
def test_family_of_rejects_a_model_without_lm_head(config: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AssetError, match="no language-model head") as caught:
        family_of(tmp_path)
    assert "masked, causal or seq2seq" in caught.value.remedy


def test_adapter_of_peft_is_no_model(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would load the model that the adapter names, or put the adapter on top of a model in its folder."""
    model = AutoModelForCausalLM.from_pretrained(backbone_folders["llama"])
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    config = BackboneConfig(asset=str(tmp_path))
    for _ in range(2):
        with pytest.raises(AssetError, match=rf"is an adapter of PEFT for {backbone_folders['llama']}, not a model"):
            load_backbone(config, frozen=True)
        with pytest.raises(AssetError, match="is an adapter of PEFT"):
            TextEncoder.of(EncoderConfig(asset=str(tmp_path)), ["text"])
        shutil.copy(backbone_folders["llama"] / "config.json", tmp_path)  # the second time with a model in the folder


def test_merged_adapter_is_a_model(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """The remedy of the error above."""
    model = AutoModelForCausalLM.from_pretrained(backbone_folders["llama"])
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.merge_and_unload().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(backbone_folders["llama"]).save_pretrained(tmp_path)
    merged, plain = (
        load_backbone(BackboneConfig(asset=str(folder), precision="fp32"), frozen=True)
        for folder in (tmp_path, backbone_folders["llama"])
    )
    item = Encoded((5, 6, 7), (0, 0, 0), 2)
    logits = [backbone.vocabulary_logits(backbone.batch([item])) for backbone in (merged, plain)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_code_of_a_tokenizer_does_not_run(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "new"}))
    settings = {"tokenizer_class": "New", "auto_map": {"AutoTokenizer": ["tokenization.New", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenization.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(AssetError, match="cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "code in the folder of a model is not run" in caught.value.remedy


def test_damaged_gguf_file_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(AssetError, match=r"model.gguf cannot be read") as caught:
        translate_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert "safetensors" in caught.value.remedy
