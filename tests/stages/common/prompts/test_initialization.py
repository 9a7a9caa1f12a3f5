"""Tests of the initialization of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.prompts.config import InitConfig, PromptConfig, TransferConfig
from stages.common.prompts.deep_prompts import DeepLayout, activations
from stages.common.prompts.initialization import init_vectors, new_prompt, pretrained_vectors
from stages.common.prompts.peft_format import save_prompt
from stages.common.prompts.soft_prompt import LowRankPrompt
from stages.common.seeds import torch_rng
from tests.support.small_models import FAMILIES, film_task


@pytest.mark.parametrize("name", FAMILIES)
def test_deep_prompts_are_initialized_from_activations(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    pattern = film_task(name).pattern("review")
    layers = DeepLayout.of(backbone)
    config = PromptConfig(method="p_tuning_v2", num_virtual_tokens=4, init=InitConfig(kind="text", text="the film"))
    actual = new_prompt(config, backbone, pattern, seed=1).vectors
    ids = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
    expected = activations(backbone, layers, [ids[number % len(ids)] for number in range(4)])
    assert actual.shape == (4, layers.width)
    assert torch.equal(actual, expected)
    part = layers.parts["decoder"]
    assert part.rows(part.keys_and_values(actual)).equal(actual)


def test_init_vectors_uses_label_words_and_first_token(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    table = backbone.model.get_input_embeddings().weight
    actual = init_vectors(InitConfig(kind="label_words"), 5, backbone, torch_rng(0), label_words=[7, 9])
    assert torch.equal(actual, table[[7, 9, 7, 9, 7]])
    actual = init_vectors(InitConfig(kind="cls"), 2, backbone, torch_rng(0))
    assert torch.equal(actual, table[[backbone.tokenizer.cls_token_id] * 2])
    with pytest.raises(InputError, match="no label words"):
        init_vectors(InitConfig(kind="label_words"), 5, backbone, torch_rng(0))
    with pytest.raises(InputError, match="not all in the backbone's vocabulary"):
        init_vectors(InitConfig(kind="text", text="漢字"), 5, backbone, torch_rng(0))


def test_low_rank_prompt_starts_unchanged_with_few_parameters() -> None:
    start = torch.randn(6, 32)
    table = LowRankPrompt(start, 2)
    assert torch.equal(table(), start)
    assert sum(item.numel() for item in table.parameters()) == 2 * (6 + 32)


@pytest.mark.parametrize("kind", ["normal", "uniform", "zero", "sample_vocab", "text", "mean"])
def test_init_vectors_follows_the_kind_and_the_seed(kind: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    table = backbone.model.get_input_embeddings().weight
    config = InitConfig(kind=kind, text="the film" if kind == "text" else "", scale=0.5, num_candidate_tokens=50)
    vectors = init_vectors(config, 40, backbone, torch_rng(0))
    again, other = (init_vectors(config, 40, backbone, torch_rng(seed)) for seed in (0, 1))
    assert vectors.shape == (40, 32)
    assert torch.equal(vectors, again)
    assert torch.equal(vectors, other) is (kind in ("zero", "text", "mean"))
    if kind == "normal":
        assert vectors.std().item() == pytest.approx(0.5, rel=0.1)
    elif kind == "uniform":
        assert 0.4 < vectors.abs().max() <= 0.5
        assert abs(vectors.mean()) < 0.05
    elif kind == "zero":
        assert vectors.abs().max() == 0
    elif kind == "mean":
        assert torch.allclose(vectors, table.mean(dim=0).expand(40, 32), atol=1e-6)
    elif kind == "text":
        ids = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
        assert torch.equal(vectors, table[ids].repeat(20, 1))
    else:
        tokens = [(table == vector).all(dim=1).nonzero().item() for vector in vectors]
        assert len(set(tokens)) == 40
        assert max(tokens) < 50
        assert not set(tokens) & set(backbone.tokenizer.all_special_ids)


def test_init_vectors_repeats_tokens_of_a_small_vocabulary(backbones: dict[str, Backbone]) -> None:
    assert init_vectors(InitConfig(num_candidate_tokens=20), 100, backbones["bert"], torch_rng(0)).shape == (100, 32)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
def test_a_prompt_starts_from_that_of_another_task(method: Any, backbones: dict[str, Backbone], tmp_path: Path) -> None:
    backbone, pattern = backbones["llama"], film_task("llama").pattern("review")
    source = new_prompt(PromptConfig(method=method, num_virtual_tokens=4), backbone, pattern, seed=1)
    assert source is not None
    save_prompt(source, backbone, tmp_path / "prompt", method)
    config = PromptConfig(method=method, transfer=TransferConfig(task="films", method="tuning"))
    vectors = pretrained_vectors(config, backbone, tmp_path)
    prompt = new_prompt(config, backbone, pattern, seed=2, pretrained=vectors)
    assert prompt is not None
    assert torch.equal(prompt.vectors, source.vectors)
    assert all(item.requires_grad for item in prompt.parameters())
    other = "p_tuning_v2" if method == "prompt_tuning" else "prompt_tuning"
    with pytest.raises(InputError, match="at another place of the model") as caught:
        pretrained_vectors(config.model_copy(update={"method": other}), backbone, tmp_path)
    assert caught.value.key == "transfer"
