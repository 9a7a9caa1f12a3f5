"""Tests of prompts in PEFT's format."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptLearningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.models.backbones.config import LoraConfig, TuneConfig
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.encoding import Encoder
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.loader import ModelLoader, new_submodel
from stages.common.prompts.peft_format import load_prompt, save_prompt
from stages.common.protocols import NullRecorder
from stages.common.seeds import torch_rng
from tests.support.prompt_methods import METHODS
from tests.support.small_models import backbone_config, film_examples, film_task


def encoded(backbone: Backbone, name: str, texts: tuple[str, ...] = ("A dull plot.", "It was a warm film.")) -> Any:
    encoder = Encoder(film_task(name).pattern("review"), backbone.tokenizer, backbone.family, 64)
    return [encoder(Example(str(number), {"text": text})) for number, text in enumerate(texts)]


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_lstm", "prefix_tuning", "p_tuning_v2", "low_rank"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_peft_loads_prompts_and_computes_the_same(
    name: str, method: str, backbone_folders: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    backbone = backbones[name]
    prompt = new_prompt(METHODS[method], backbone, film_task(name).pattern("review"), seed=3)
    with torch.no_grad():
        for weight in prompt.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch_rng(len(weight.shape))) * 0.2)
    save_prompt(prompt, backbone, tmp_path / "prompt", METHODS[method].method)
    kind = AutoModelForSeq2SeqLM if name == "t5" else AutoModelForCausalLM
    plain = kind.from_pretrained(backbone_folders[name], dtype=torch.float32, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(plain, tmp_path / "prompt").eval()
    for item in encoded(backbone, name):
        ids = torch.tensor([item.ids])
        arguments: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if name == "t5":
            sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
            arguments["decoder_input_ids"] = torch.tensor([[0, sentinel]])
        with torch.inference_mode():
            expected = theirs(**arguments).logits[:, -1]
            actual = backbone.vocabulary_logits(backbone.batch([item]), prompt([]))
            without = backbone.vocabulary_logits(backbone.batch([item]))
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)
        assert (actual - without).abs().max() > 0.01


PEFT_CONFIGS: dict[str, PromptLearningConfig] = {
    "prompt tuning": PromptTuningConfig(num_virtual_tokens=4),
    "P-tuning, LSTM": PromptEncoderConfig(
        num_virtual_tokens=4, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
    ),
    "P-tuning, MLP": PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix tuning": PrefixTuningConfig(num_virtual_tokens=4, encoder_hidden_size=16, prefix_projection=True),
    "P-tuning v2": PrefixTuningConfig(num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", PEFT_CONFIGS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_load_prompt_reads_a_prompt_of_peft(
    name: str, kind: str, backbone_folders: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    is_t5 = name == "t5"
    auto_class = AutoModelForSeq2SeqLM if is_t5 else AutoModelForCausalLM
    plain = auto_class.from_pretrained(backbone_folders[name], dtype=torch.float32, attn_implementation="eager")
    config = copy.deepcopy(PEFT_CONFIGS[kind])
    config.task_type = "SEQ_2_SEQ_LM" if is_t5 else "CAUSAL_LM"
    if is_t5 and not isinstance(config, PrefixTuningConfig):
        config.num_transformer_submodules = 1  # vectors before the text only, not before the decoder
    torch.manual_seed(0)
    theirs = get_peft_model(plain, config).eval()
    theirs.save_pretrained(tmp_path / "prompt")
    backbone = backbones[name]
    prompt = load_prompt(tmp_path / "prompt", backbone)
    item = encoded(backbone, name)[1]
    ids = torch.tensor([item.ids])
    arguments: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if is_t5:
        sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        arguments["decoder_input_ids"] = torch.tensor([[0, sentinel]])
    with torch.inference_mode():
        expected = theirs(**arguments).logits[:, -1]
        actual = backbone.vocabulary_logits(backbone.batch([item]), prompt([]))
        without = backbone.vocabulary_logits(backbone.batch([item]))
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)
    assert (actual - without).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_lora_weights_of_peft_and_of_submodels_are_the_same_format(
    name: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT computes the logits of a sub-model from its adapter, and a sub-model those of an adapter that PEFT wrote."""
    auto_class = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}.get(name, AutoModelForCausalLM)
    config, task, examples = backbone_config(backbone_folders[name]), film_task(name), film_examples(3)
    with new_submodel(config, TuneConfig(tune="lora", lora=LoraConfig(rank=2)), seed=1) as submodel:
        for weight in submodel.adapter.parameters():
            if weight.requires_grad:
                weight.data.normal_(0, 0.1)
        (tmp_path / "ours").mkdir()
        submodel.save(task, "review", tmp_path / "ours")
        classifier = ClozeClassifier.of(task, "review", submodel.backbone, config)
        expected = classifier.predict(examples, NullRecorder(), "")
        clozes = [classifier.encode(item)[0] for item in examples]
    plain = auto_class.from_pretrained(backbone_folders[name], dtype=torch.float32, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(plain, tmp_path / "ours" / "adapter").eval()
    for row, item in enumerate(clozes):
        arguments = {"input_ids": torch.tensor([item.ids])}
        if name == "bert":
            arguments["token_type_ids"] = torch.tensor([item.token_type_ids])
        if name == "t5":
            sentinel = classifier.backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
            arguments["decoder_input_ids"] = torch.tensor([[0, sentinel]])
        with torch.inference_mode():
            logits = theirs(**arguments).logits[0, 1 if name == "t5" else item.mask_position]
        means = [float(logits[[word[0] for word in words]].mean()) for words in classifier.verbalizer.words]
        assert means == pytest.approx(expected[row].tolist(), abs=2e-4)
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    shutil.rmtree(tmp_path / "theirs" / "adapter")
    theirs.save_pretrained(tmp_path / "theirs" / "adapter")
    loaded = ModelLoader().load(tmp_path / "theirs")
    assert loaded.predict(examples, NullRecorder(), "") == pytest.approx(expected, abs=1e-5)


def test_load_prompt_rejects_another_backbone(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    backbone = backbones["gpt2"]
    for method in ("prompt_tuning", "p_tuning_v2"):
        prompt = new_prompt(METHODS[method], backbone, film_task("gpt2").pattern("review"), seed=0)
        save_prompt(prompt, backbone, tmp_path / method)

    def other(num_layers: int, width: int = 32) -> Backbone:
        config = GPT2Config(vocab_size=300, n_embd=width, n_layer=num_layers, n_head=4, n_positions=64)
        return CausalBackbone(GPT2LMHeadModel(config), backbone.tokenizer, backbone.traits).freeze()

    with pytest.raises(InputError, match="another backbone of the same width"):
        load_prompt(tmp_path / "prompt_tuning", other(2))
    with pytest.raises(InputError, match="width 32, the backbone has width 16"):
        load_prompt(tmp_path / "prompt_tuning", other(2, 16))
    with pytest.raises(InputError, match="another backbone of the same shape"):
        load_prompt(tmp_path / "p_tuning_v2", other(2))
    with pytest.raises(InputError, match=r"for 2 layers of width 32, the backbone has 3 of width 32"):
        load_prompt(tmp_path / "p_tuning_v2", other(3))
    with pytest.raises(InputError, match="has no soft prompt"):
        load_prompt(tmp_path, backbone)
