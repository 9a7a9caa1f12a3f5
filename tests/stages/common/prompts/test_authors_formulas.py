"""Prompts equal the formulas in the code of their authors, which are written out here with plain torch.

P-tuning v2: github.com/THUDM/P-tuning-v2, model/prefix_encoder.py and get_prompt of model/sequence_classification.py.
Prefix tuning: github.com/XiangLi1999/PrefixTuning, gpt2/train_control.py, get_prompt_p5. Shapes: [layers * 2, batch,
heads, length, size], split into one pair of keys and values per layer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.prompts.config import InitConfig, PromptConfig
from stages.common.prompts.deep_prompts import DeepLayout, KVLayout
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.soft_prompt import PrefixEncoder, Prompt, PromptEmbedding, PTuningEncoder
from tests.support.small_models import backbone_config, film_examples, film_task

LAYERS, HEADS, SIZE, LENGTH, HIDDEN = 2, 4, 8, 5, 16
WIDTH = HEADS * SIZE
RANDOM = InitConfig(kind="normal", scale=0.3)


def split_like_the_authors(past: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """[batch, length, layers * 2 * width] -> one tensor [2, batch, heads, length, size] per layer."""
    past = past.view(batch_size, LENGTH, LAYERS * 2, HEADS, SIZE)
    return past.permute([2, 0, 3, 1, 4]).split(2)


def assert_layers(prompt: Prompt, past: tuple[Tensor, ...]) -> None:
    """The prompt has these keys and values, for one text and for a batch."""
    pairs = prompt([]).keys_and_values(3, torch.float32)
    assert len(pairs) == len(past) == LAYERS
    for pair, (keys, values) in zip(pairs, past, strict=True):
        assert torch.equal(pair.keys, keys)
        assert torch.equal(pair.values, values)


def test_p_tuning_v2_splits_its_vectors_like_the_authors() -> None:
    table = torch.randn(LENGTH, LAYERS * 2 * WIDTH)
    prompt = Prompt(PromptEmbedding(table), "layers", DeepLayout({"decoder": KVLayout(LAYERS, HEADS, SIZE)}))
    embedding = torch.nn.Embedding.from_pretrained(table)
    prefix_tokens = torch.arange(LENGTH).unsqueeze(0).expand(3, -1)
    assert_layers(prompt, split_like_the_authors(embedding(prefix_tokens), 3))


def test_prefix_tuning_has_the_mlp_of_the_authors() -> None:
    """Also P-tuning v2 with prefix_projection, which has the same one."""
    module = PrefixEncoder(torch.randn(LENGTH, WIDTH), HIDDEN, LAYERS * 2 * WIDTH)
    prompt = Prompt(module, "layers", DeepLayout({"decoder": KVLayout(LAYERS, HEADS, SIZE)}))
    wte = torch.nn.Embedding.from_pretrained(module.vectors.detach())
    control_trans = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, LAYERS * 2 * WIDTH)
    )
    control_trans.load_state_dict(module.mlp.state_dict())
    input_tokens = torch.arange(LENGTH).unsqueeze(0).expand(3, -1)
    past = split_like_the_authors(control_trans(wte(input_tokens)), 3)
    pairs = prompt([]).keys_and_values(3, torch.float32)
    for pair, (keys, values) in zip(pairs, past, strict=True):
        torch.testing.assert_close(pair.keys, keys)
        torch.testing.assert_close(pair.values, values)


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2"])
def test_gpt2_with_past_key_values_of_the_authors_scores_the_same(
    method: str, backbones: dict[str, Backbone], backbone_folders: dict[str, Path]
) -> None:
    """Batches with padding against transformers alone, one text at a time: past_key_values and a longer mask."""
    backbone = backbones["gpt2"]
    config = PromptConfig(method=method, num_virtual_tokens=LENGTH, encoder_hidden_size=HIDDEN, init=RANDOM)
    prompt = new_prompt(config, backbone, film_task("gpt2").pattern("review"), seed=4)
    settings = backbone_config(backbone_folders["gpt2"])
    classifier = ClozeClassifier.of(film_task("gpt2"), "review", backbone, settings, prompt)
    clozes = [classifier.encode(item) for item in film_examples(4)]
    plain = AutoModelForCausalLM.from_pretrained(backbone_folders["gpt2"], dtype=torch.float32).eval()
    past = split_like_the_authors(prompt.vectors[None], 1)
    with torch.inference_mode():
        actual = classifier.logits(clozes)
        for row, (item,) in enumerate(clozes):
            cache = DynamicCache([(keys, values) for keys, values in past])
            mask = torch.ones(1, LENGTH + len(item.ids), dtype=torch.long)
            logits = plain(input_ids=torch.tensor([item.ids]), attention_mask=mask, past_key_values=cache).logits[0, -1]
            expected = [logits[[word[0] for word in words]].mean() for words in classifier.verbalizer.words]
            torch.testing.assert_close(actual[row], torch.stack(expected), atol=2e-5, rtol=1e-5)


def test_p_tuning_has_the_encoder_of_the_authors() -> None:
    """github.com/THUDM/P-tuning, PromptEncoder: a two-layer biLSTM over all vectors, then Linear, ReLU, Linear.

    The widths are those of PEFT: both directions have the hidden size, and the MLP twice that.
    """
    module = PTuningEncoder(torch.randn(LENGTH, WIDTH), "lstm", HIDDEN)
    lstm = torch.nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
    mlp = torch.nn.Sequential(
        torch.nn.Linear(2 * HIDDEN, 2 * HIDDEN), torch.nn.ReLU(), torch.nn.Linear(2 * HIDDEN, WIDTH)
    )
    lstm.load_state_dict(module.encoder.lstm_head.state_dict())
    mlp.load_state_dict(module.encoder.mlp_head.state_dict())
    expected = mlp(lstm(module.encoder.embedding.weight[None])[0])[0]
    torch.testing.assert_close(module(), expected)
