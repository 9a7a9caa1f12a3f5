"""Prefixes in the encoder and in cross-attention of T5 and BART, against an attention that is written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, LEDConfig
from transformers.modeling_outputs import BaseModelOutput

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.backbones.prefix_check import check_prefixes
from stages.common.models.backbones.seq2seq import Seq2SeqBackbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.peft_format import load_prompt, save_prompt
from tests.support.small_models import backbone_config, t5_tokenizer

NAMES = ("t5", "bart")
NUM_LAYERS, NUM_HEADS, SIZE, NUM_POSITIONS = 2, 4, 8, 3
EVERYWHERE = ("cross", "encoder", "decoder")
TEXTS = ("The film is great.", "A dull plot, a terrible script and a hero")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, backbones: dict[str, Backbone]) -> dict[str, Seq2SeqBackbone]:
    """The small T5 of the other tests, and a BART with the same tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("bart"), t5_tokenizer()
    torch.manual_seed(3)
    shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 160}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 0}
    bart = BartForConditionalGeneration(
        BartConfig(vocab_size=len(tokenizer), **shape, **sizes, **ends, forced_eos_token_id=None)
    )
    for weight in bart.parameters():
        weight.data += torch.randn_like(weight) * 0.2
    bart.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = {"t5": backbones["t5"], "bart": load_backbone(backbone_config(folder), frozen=True)}
    assert all(isinstance(item, Seq2SeqBackbone) for item in loaded.values())
    return loaded  # type: ignore[return-value]


def encoded(backbone: Backbone, text: str) -> Encoded:
    ids = tuple(backbone.tokenizer(text)["input_ids"])
    return Encoded(ids, (0,) * len(ids), 1)


def random_layers(seed: int) -> Tensor:
    shape = (NUM_LAYERS, 2, NUM_HEADS, NUM_POSITIONS, SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads(states_LD: Tensor) -> Tensor:
    """[L, D] -> [H, L, d]."""
    return states_LD.unflatten(-1, (NUM_HEADS, SIZE)).transpose(0, 1)


def attention(query_HLd: Tensor, keys: Tensor, values: Tensor, layer: Tensor, bias: Any, scale: float) -> Tensor:
    """Returns [L, D]: attention over a prefix and the text."""
    keys, values = torch.cat([layer[0], keys], dim=1), torch.cat([layer[1], values], dim=1)
    scores = query_HLd @ keys.transpose(1, 2) * scale
    scores[:, :, NUM_POSITIONS:] += bias
    return (scores.softmax(dim=-1) @ values).transpose(0, 1).flatten(1)


def t5_encoder_by_hand(model: Any, ids: Tensor, prefix: Tensor) -> Tensor:
    states = model.shared(ids)
    bias = model.encoder.block[0].layer[0].SelfAttention.compute_bias(len(ids), len(ids))[0]
    for block, layer in zip(model.encoder.block, prefix, strict=True):
        own, normed = block.layer[0].SelfAttention, block.layer[0].layer_norm(states)
        q, k, v = (heads(part(normed)) for part in (own.q, own.k, own.v))
        states = states + own.o(attention(q, k, v, layer, bias, 1.0))
        states = block.layer[1](states)
    return model.encoder.final_layer_norm(states)


def bart_encoder_by_hand(model: Any, ids: Tensor, prefix: Tensor) -> Tensor:
    encoder = model.get_encoder()
    states = encoder.embed_tokens(ids) + encoder.embed_positions(ids[None])[0]
    states = encoder.layernorm_embedding(states)
    for block, layer in zip(encoder.layers, prefix, strict=True):
        own = block.self_attn
        q, k, v = (heads(part(states)) for part in (own.q_proj, own.k_proj, own.v_proj))
        read = own.out_proj(attention(q, k, v, layer, 0.0, SIZE**-0.5))
        states = block.self_attn_layer_norm(states + read)
        states = block.final_layer_norm(states + block.fc2(block.activation_fn(block.fc1(states))))
    return states


@pytest.mark.parametrize("name", NAMES)
def test_prefixes_of_the_encoder_equal_an_attention_by_hand(name: str, models: dict[str, Seq2SeqBackbone]) -> None:
    backbone, prefix = models[name], random_layers(1)
    by_hand = {"t5": t5_encoder_by_hand, "bart": bart_encoder_by_hand}[name]
    texts = [encoded(backbone, text) for text in TEXTS]
    with torch.no_grad():
        batch = backbone.encode(backbone.batch(texts), SoftInput(encoder=prefix))
        plain = backbone.encode(backbone.batch(texts), None)
        for row, text in enumerate(texts):
            expected = by_hand(backbone.model, torch.tensor(text.ids), prefix)
            torch.testing.assert_close(batch.states[row, : len(text.ids)], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch.states, plain.states, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_prefixes_of_cross_attention_equal_more_states_of_the_encoder(
    name: str, models: dict[str, Seq2SeqBackbone]
) -> None:
    backbone = models[name]
    model, more = backbone.model, torch.randn(1, NUM_POSITIONS, 32, generator=torch.Generator().manual_seed(2))
    text, written = encoded(backbone, TEXTS[1]), torch.tensor([[0, 9, 12, 7]])
    decoder = model.get_decoder()
    blocks = [item.layer[1].EncDecAttention for item in decoder.block] if name == "t5" else [
        item.encoder_attn for item in decoder.layers
    ]  # fmt: skip
    projections = [(item.k, item.v) if name == "t5" else (item.k_proj, item.v_proj) for item in blocks]
    with torch.no_grad():
        prefix = torch.stack([torch.stack([heads(part(more[0])) for part in pair]) for pair in projections])
        both = backbone.encode(backbone.batch([text, encoded(backbone, TEXTS[0])]), None)
        alone = backbone.encode(backbone.batch([text]), None)
        expected = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.cat([more, alone.states], dim=1)),
            decoder_input_ids=written,
        ).logits[0]
        logits = backbone.decode(both, written.expand(2, -1), SoftInput(cross=prefix))[0]
        plain = backbone.decode(both, written.expand(2, -1), None)[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, plain, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["p_tuning_v2", "prefix_tuning"])
def test_gradients_reach_each_place_and_files_keep_it(
    name: str, method: Any, models: dict[str, Seq2SeqBackbone], tmp_path: Path
) -> None:
    backbone = models[name]
    config = PromptConfig(method=method, num_virtual_tokens=NUM_POSITIONS, prefix_at=EVERYWHERE, encoder_hidden_size=8)
    prompt = new_prompt(config, backbone, None, seed=1)
    assert prompt is not None
    batch = backbone.batch([encoded(backbone, text) for text in TEXTS])
    vectors = prompt.table()
    assert vectors.shape == (NUM_POSITIONS, 3 * NUM_LAYERS * 2 * NUM_HEADS * SIZE)
    backbone.vocabulary_logits(batch, prompt.soft_input(vectors)).square().sum().backward()
    gradients = torch.autograd.grad(
        backbone.vocabulary_logits(batch, prompt.soft_input(rows := prompt.vectors.requires_grad_())).square().sum(),
        rows,
    )[0]
    parts = gradients.unflatten(1, (3 * NUM_LAYERS * 2, -1)).abs().sum(dim=(0, 2))
    assert (parts > 0).all(), "keys and values of each layer at each place"
    assert all(item.grad is not None and bool(item.grad.abs().sum() > 0) for item in prompt.parameters())
    save_prompt(prompt, backbone, tmp_path / "prompt", method)
    loaded = load_prompt(tmp_path / "prompt", backbone)
    with torch.no_grad():
        expected, actual = (backbone.vocabulary_logits(batch, item([])) for item in (prompt, loaded))
    torch.testing.assert_close(actual, expected)
    assert not (tmp_path / "prompt" / "adapter_config.json").exists(), "PEFT has no such prompts, and must not load it"
    other = models["bart" if name == "t5" else "t5"]
    with pytest.raises(InputError, match="trained for another backbone"):
        load_prompt(tmp_path / "prompt", other)


def test_prefixes_start_from_the_keys_and_values_of_words(models: dict[str, Seq2SeqBackbone]) -> None:
    backbone = models["bart"]
    init = {"kind": "text", "text": "great bad"}
    config = PromptConfig(method="p_tuning_v2", num_virtual_tokens=2, prefix_at=("encoder",), init=init)
    prompt = new_prompt(config, backbone, None, seed=1)
    assert prompt is not None
    layers = prompt([]).encoder
    assert layers is not None
    ids = backbone.tokenizer("great bad", add_special_tokens=False)["input_ids"][:2]
    encoder = backbone.model.get_encoder()
    with torch.no_grad():
        states = encoder.layernorm_embedding(
            encoder.embed_tokens(torch.tensor(ids)) + encoder.embed_positions(torch.tensor([ids]))[0]
        )
        torch.testing.assert_close(layers[0, 0], heads(encoder.layers[0].self_attn.k_proj(states)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"method": "prompt_tuning"}, "prefix_at is for keys and values"),
        ({"method": "p_tuning_v2", "prefix_at": ["encoder", "encoder"]}, "names a place twice"),
        ({"method": "p_tuning_v2", "prefix_at": []}, "at least 1"),
        ({"method": "p_tuning_v2", "prefix_at": ["everywhere"]}, "encoder"),
    ],
)
def test_bad_places_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PromptConfig.model_validate({"prefix_at": ["encoder"], **settings})


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_other_families_are_refused(name: str, backbones: dict[str, Backbone]) -> None:
    config = PromptConfig(method="p_tuning_v2", prefix_at=("decoder",))
    with pytest.raises(InputError, match="prefix_at is for seq2seq models"):
        new_prompt(config, backbones[name], None, seed=1)


def test_small_copies_show_which_architectures_take_prefixes(
    models: dict[str, Seq2SeqBackbone], tmp_path: Path
) -> None:
    for name, backbone in models.items():
        backbone.model.config.save_pretrained(tmp_path / name)
        check_prefixes(tmp_path / name)
    config = LEDConfig(encoder_layers=2, decoder_layers=2, architectures=["LEDForConditionalGeneration"])
    config.save_pretrained(tmp_path / "led")
    with pytest.raises(InputError, match="LEDForConditionalGeneration takes no prefixes in its encoder") as caught:
        check_prefixes(tmp_path / "led")
    assert "T5 or BART" in str(caught.value.remedy)
