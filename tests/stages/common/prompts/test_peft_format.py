"""Tests of prompts in PEFT's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.causal import CausalBackbone
from stages.common.patterns.encoding import Encoder
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import load_prompt, save_prompt
from stages.common.seeds import torch_rng
from tests.support.prompt_methods import METHODS
from tests.support.small_models import film_task


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
            actual = backbone.vocabulary_logits(backbone.batch([item]), prompt())
            without = backbone.vocabulary_logits(backbone.batch([item]))
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)
        assert (actual - without).abs().max() > 0.01


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_load_prompt_reads_a_prompt_of_peft(
    peft_type: str, backbone_folders: dict[str, Path], backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(backbone_folders["llama"], dtype=torch.float32)
    kind = PrefixTuningConfig if peft_type == "PREFIX_TUNING" else PromptTuningConfig
    theirs = get_peft_model(plain, kind(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    theirs.save_pretrained(tmp_path / "prompt")
    backbone = backbones["llama"]
    prompt = load_prompt(tmp_path / "prompt", backbone)
    item = encoded(backbone, "llama")[1]
    ids = torch.tensor([item.ids])
    with torch.inference_mode():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        actual = backbone.vocabulary_logits(backbone.batch([item]), prompt())
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


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
