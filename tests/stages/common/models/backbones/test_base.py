"""Tests of the interface of backbones: logits at the mask equal those of the plain model."""

from __future__ import annotations

import pytest
import torch

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.patterns.encoding import Encoded, Encoder
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from tests.support.small_models import FAMILIES, film_task

WIDTH = 32
NUM_VECTORS = 5


def encode(backbone: Backbone, name: str) -> list[Encoded]:
    """Three examples of different lengths, the middle one the longest."""
    texts = ["A dull plot.", "The film is a warm and clever story about two sisters, and it was great.", "It drags."]
    task = film_task(name)
    encoder = Encoder(task.pattern("review"), backbone.tokenizer, backbone.family, 64)
    actual = [encoder(Example(str(i), {"text": text})) for i, text in enumerate(texts)]
    assert len({len(item.ids) for item in actual}) == 3
    return actual


def words(backbone: Backbone) -> list[int]:
    return [backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][-1] for word in ("good", "bad", "no")]


def plain_logits(backbone: Backbone, item: Encoded, prompt: torch.Tensor | None = None) -> torch.Tensor:
    """Returns logits [V] of the plain forward pass on one unpadded text, with the prompt before it."""
    model = backbone.model
    arguments: dict[str, torch.Tensor] = {"input_ids": torch.tensor([item.ids])}
    if prompt is not None:
        embedded = model.get_input_embeddings()(arguments.pop("input_ids"))
        arguments["inputs_embeds"] = torch.cat([prompt[None], embedded], dim=1)
    shift = 0 if prompt is None else len(prompt)
    if backbone.family == "seq2seq":
        sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        return model(**arguments, decoder_input_ids=torch.tensor([[0, sentinel]])).logits[0, -1]
    if model.config.model_type == "bert":
        arguments["token_type_ids"] = torch.tensor([[0] * shift + list(item.token_type_ids)])
    logits_LV = model(**arguments).logits[0]
    return logits_LV[-1] if backbone.family == "causal" else logits_LV[shift + item.mask_position]


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_pads_to_a_multiple_within_the_positions(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    items = encode(backbone, name)
    longest = max(len(item.ids) for item in items)
    plain, grid = backbone.batch(items), backbone.batch(items, pad_to_multiple=True)
    assert plain.input_ids.shape[1] == longest
    assert grid.input_ids.shape[1] == -(-longest // 8) * 8
    with torch.inference_mode():
        before = backbone.word_logits(plain, words(backbone))
        torch.testing.assert_close(backbone.word_logits(grid, words(backbone)), before, rtol=1e-4, atol=1e-5)
    room = backbone.max_positions
    if room is not None:
        one = Encoded((items[0].ids[0],) * (room - NUM_VECTORS - 1), (0,) * (room - NUM_VECTORS - 1), 0)
        prompt = SoftInput(before=make_prompt())
        assert backbone.batch([one], prompt, pad_to_multiple=True).input_ids.shape[1] <= room - NUM_VECTORS


def make_prompt(seed: int = 3) -> torch.Tensor:
    return torch.randn(NUM_VECTORS, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_word_logits_equal_those_of_the_plain_model(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    word_ids = words(backbone)
    with torch.inference_mode():
        for item in encode(backbone, name):
            actual = backbone.word_logits(backbone.batch([item]), word_ids)[0]
            expected = plain_logits(backbone, item)[word_ids]
            assert actual.dtype == torch.float32
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
            assert actual.std() > 0.01, "the words must differ, or this test would pass at any position"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("with_prompt", [False, True])
def test_padding_does_not_change_logits(name: str, with_prompt: bool, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    items, word_ids = encode(backbone, name), words(backbone)
    prompt = SoftInput(before=make_prompt()) if with_prompt else None
    with torch.inference_mode():
        batched = backbone.word_logits(backbone.batch(items), word_ids, prompt)
        separate = torch.cat([backbone.word_logits(backbone.batch([item]), word_ids, prompt) for item in items])
    torch.testing.assert_close(batched, separate, atol=1e-4, rtol=0)
    assert (separate[0] - separate[1]).abs().max() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_soft_prompt_equals_embeddings_before_the_text(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    word_ids, prompt = words(backbone), make_prompt()
    with torch.inference_mode():
        for item in encode(backbone, name):
            actual = backbone.word_logits(backbone.batch([item]), word_ids, SoftInput(before=prompt))[0]
            expected = plain_logits(backbone, item, prompt)[word_ids]
            without = backbone.word_logits(backbone.batch([item]), word_ids)[0]
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
            assert (actual - without).abs().max() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_each_example_can_have_a_separate_prompt(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    items, word_ids = encode(backbone, name), words(backbone)
    prompts = [make_prompt(seed) for seed in range(3)]
    with torch.inference_mode():
        actual = backbone.word_logits(backbone.batch(items), word_ids, SoftInput(before=torch.stack(prompts)))
        for row, (item, prompt) in enumerate(zip(items, prompts, strict=True)):
            torch.testing.assert_close(actual[row], plain_logits(backbone, item, prompt)[word_ids], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_only_the_prompt(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    prompt = Prompt(PromptEmbedding(make_prompt()))
    logits = backbone.word_logits(backbone.batch(encode(backbone, name)), words(backbone), prompt([]))
    logits.square().sum().backward()
    assert prompt.table.vectors.grad is not None
    assert (prompt.table.vectors.grad.abs().sum(dim=1) > 0).all(), "every vector must be reached"
    assert all(weight.grad is None for weight in backbone.model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_gradients_equal_those_of_the_plain_model(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    word_ids, item = words(backbone), encode(backbone, name)[0]
    ours, plain = make_prompt().requires_grad_(), make_prompt().requires_grad_()
    backbone.word_logits(backbone.batch([item]), word_ids, SoftInput(before=ours)).square().sum().backward()
    plain_logits(backbone, item, plain)[word_ids].square().sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-4, rtol=1e-3)


def test_roberta_positions_start_after_the_padding_id(backbones: dict[str, Backbone]) -> None:
    roberta = backbones["roberta"]
    items = encode(roberta, "roberta")
    batch = roberta.batch(items)
    with roberta._inputs(batch, None) as arguments:
        for row, item in enumerate(items):
            length = len(item.ids)
            assert arguments["position_ids"][row, :length].tolist() == list(range(2, 2 + length))
    with roberta._inputs(batch, SoftInput(before=make_prompt())) as arguments:
        assert arguments["position_ids"][0, : NUM_VECTORS + 2].tolist() == list(range(2, NUM_VECTORS + 4))


def test_only_causal_models_pad_on_the_left(backbones: dict[str, Backbone]) -> None:
    for name, left in [("bert", False), ("roberta", False), ("llama", True), ("gpt2", True), ("t5", False)]:
        backbone = backbones[name]
        items = encode(backbone, name)
        batch = backbone.batch(items)
        padding = batch.input_ids.shape[1] - len(items[0].ids)
        assert padding > 0
        expected = [0] * padding + [1] * len(items[0].ids)
        assert batch.attention_mask[0].tolist() == (expected if left else expected[::-1])
        assert batch.input_ids[0, batch.mask_position[0]] == items[0].ids[items[0].mask_position]
