"""Tests of attention with additional keys and values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.prefix_attention import prefixed
from stages.common.models.backbones.soft_input import KeysAndValues, SoftInput
from stages.common.patterns.encoding import Encoder
from stages.common.prompts.deep_prompts import KVLayout
from stages.common.seeds import torch_rng
from tests.support.small_models import film_task


def encoded(backbone: Backbone, name: str, texts: tuple[str, ...] = ("A dull plot.", "It was a warm film.")) -> Any:
    encoder = Encoder(film_task(name).pattern("review"), backbone.tokenizer, backbone.family, 64)
    return [encoder(Example(str(number), {"text": text})) for number, text in enumerate(texts)]


def test_attention_of_masked_models_includes_the_prefix(backbones: dict[str, Backbone]) -> None:
    """Compares with attention computed here, in the first layer of a BERT."""
    backbone = backbones["bert"]
    layers = KVLayout.of(backbone)
    rows = torch.randn(3, layers.width, generator=torch_rng(1))
    prefix = layers.keys_and_values(rows)
    item = encoded(backbone, "bert")[0]
    batch = backbone.batch([item])
    layer = backbone.model.bert.encoder.layer[0].attention.self
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, args, kwargs, out: seen.append(out[0]), with_kwargs=True)
    with torch.inference_mode():
        backbone.hidden_states(batch, SoftInput(layers=prefix))
        hook.remove()
        positions = torch.arange(len(item.ids))[None] + 3
        states = backbone.model.bert.embeddings(batch.input_ids, batch.token_type_ids, positions)[0]
        heads = [
            part.view(-1, 4, 8).transpose(0, 1)
            for part in (layer.query(states), layer.key(states), layer.value(states))
        ]
        keys, values = (torch.cat([prefix[0, side], heads[1 + side]], dim=1) for side in (0, 1))
        expected = (heads[0] @ keys.transpose(1, 2) / 8**0.5).softmax(dim=-1) @ values
    torch.testing.assert_close(seen[0][0], expected.transpose(0, 1).reshape(-1, 32), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["albert", "electra", "modernbert"])
def test_prefixed_works_for_masked_architectures(kind: str) -> None:
    small = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    kinds: dict[str, Any] = {
        "albert": lambda: AlbertForMaskedLM(AlbertConfig(**small, embedding_size=16)),
        "electra": lambda: ElectraForMaskedLM(ElectraConfig(**small, embedding_size=16)),
        "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(**small, pad_token_id=0, cls_token_id=1)),
    }
    torch.manual_seed(0)
    model = kinds[kind]().eval()
    model.set_attn_implementation("eager")
    width = 8
    pairs = [
        KeysAndValues(*(torch.randn(2, 4, 3, width, generator=torch_rng(number)).requires_grad_() for _ in "kv"))
        for number in range(3)
    ]
    ids = torch.tensor([[1, 5, 6, 7, 8], [1, 5, 6, 0, 0]])
    mask = (ids > 0).long()
    with prefixed(model, list(pairs)):
        both = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    plain = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert (both - plain).abs().max() > 1e-3
    with prefixed(model, [KeysAndValues(key[1:], value[1:]) for key, value in pairs]):
        separate = model.base_model(input_ids=ids[1:, :3], attention_mask=mask[1:, :3]).last_hidden_state
    torch.testing.assert_close(both[1:, :3], separate, atol=1e-5, rtol=1e-4)
    both.square().sum().backward()
    assert all(item.grad is not None and item.grad.abs().sum() > 0 for pair in pairs for item in pair)
