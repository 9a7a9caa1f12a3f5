"""Tests of text generators: the loss, and generation in padded batches, against one token at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from stages.common.errors import InputError
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.initialization import new_prompt
from stages.common.protocols import NullRecorder
from stages.generation.config import DecodingConfig, GenerationTask
from stages.generation.model import TextGenerator
from tests.support.generation_data import BEAM, FAMILIES, METHODS, SAMPLE, TABLES, tables
from tests.support.small_models import backbone_config

SILENT = NullRecorder()
SOFT = GenerationTask(name="soft", pattern="{soft:2}name: {name}, {soft:3:the food}food: {food}\nText: ")
PLAIN_METHODS = ("prompt_tuning", "prefix_tuning", "idpg")


def generator(backbone: Backbone, method: str = "prompt_tuning", task: GenerationTask = TABLES) -> TextGenerator:
    prompt = new_prompt(METHODS[method], backbone, task.input_pattern, seed=1)
    torch.manual_seed(5)
    for parameter in prompt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return TextGenerator(task, backbone, backbone_config(Path()), prompt, decoding=task.decoding)


def next_logits(model: TextGenerator, ids: list[int], soft: list[int], written: list[int]) -> Tensor:
    """Returns the logits [V] of the next token: of one text without padding, from the start, without `generate`."""
    text = Encoded(tuple(ids), (0,) * len(ids), len(ids) - 1, soft_positions=tuple(soft))
    backbone, prompt = model.backbone, model.prompt([text])
    is_seq2seq = backbone.family == "seq2seq"
    embeddings = backbone.model.get_input_embeddings()(torch.tensor(ids if is_seq2seq else ids + written)).clone()
    if prompt.inside is not None:
        embeddings[soft] = prompt.inside
    if prompt.before is not None:
        embeddings = torch.cat([prompt.before.flatten(0, -2), embeddings])
    cache: Any = None
    if prompt.layers is not None:
        cache = DynamicCache([(layer[0][None], layer[1][None]) for layer in prompt.layers])
        if is_seq2seq:
            cache = EncoderDecoderCache(cache, DynamicCache())
    more = {"decoder_input_ids": torch.tensor([[0, *written]])} if is_seq2seq else {}
    with torch.no_grad():
        return backbone.model(inputs_embeds=embeddings[None], past_key_values=cache, **more).logits[0, -1]


def by_hand(model: TextGenerator, number: int, examples: Any) -> list[int]:
    """Returns the most likely tokens for one example, one token at a time."""
    item = model.encode(examples[number])
    written: list[int] = []
    while len(written) < model.task.max_new_tokens:
        best = int(next_logits(model, list(item.ids), list(item.soft_positions), written).argmax())
        if best == model.backbone.tokenizer.eos_token_id:
            break
        written.append(best)
    return written


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [*PLAIN_METHODS, "inside"])
def test_loss_is_that_of_single_tokens(name: str, method: str, backbones: dict[str, Backbone]) -> None:
    task = SOFT if method == "inside" else TABLES
    model = generator(backbones[name], "prompt_tuning" if method == "inside" else method, task)
    items = model.items(tables(4))
    losses = [
        F.cross_entropy(
            next_logits(model, list(item.encoded.ids), list(item.encoded.soft_positions), list(item.target[:number])),
            torch.tensor(token),
        )
        for item in items
        for number, token in enumerate(item.target)
    ]
    assert len({len(item.encoded.ids) for item in items}) > 1, "padding is tested"
    whole = float(model.loss(items).detach())
    assert whole == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    parts = model.loss(items[:1], items) + model.loss(items[1:], items)
    assert float(parts.detach()) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [*PLAIN_METHODS, "inside"])
def test_batched_generation_is_that_of_single_tokens(name: str, method: str, backbones: dict[str, Backbone]) -> None:
    task = (SOFT if method == "inside" else TABLES).model_copy(update={"max_new_tokens": 7})
    model = generator(backbones[name], "prompt_tuning" if method == "inside" else method, task)
    examples = tables(5)
    expected = [model.text_of(by_hand(model, number, examples)) for number in range(5)]
    assert len({len(model.encode(item).ids) for item in examples}) > 1, "padding is tested"
    assert len(set(expected)) > 1
    assert model.generate(examples, SILENT, "") == expected


def beam_by_hand(model: TextGenerator, example: Any, num_beams: int) -> list[int]:
    """Returns the most likely text of exactly `max_new_tokens` tokens that a beam search finds."""
    item = model.encode(example)
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(model.task.max_new_tokens):
        longer = []
        for total, written in beams:
            scores = next_logits(model, list(item.ids), [], written).log_softmax(dim=0)
            scores[model.backbone.tokenizer.eos_token_id] = -torch.inf
            longer += [(total + float(score), [*written, token]) for token, score in enumerate(scores)]
        beams = sorted(longer, reverse=True)[:num_beams]
    return beams[0][1]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_beams_find_the_texts_of_a_search_by_hand(name: str, method: str, backbones: dict[str, Backbone]) -> None:
    task = TABLES.model_copy(update={"max_new_tokens": 4, "decoding": BEAM})
    model = generator(backbones[name], method, task)
    # no text may end early, so that all have the same length
    head = model.backbone.model.get_output_embeddings()
    end = model.backbone.tokenizer.eos_token_id

    def without_end(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([end]), -1e9)

    examples = tables(4)
    handle = head.register_forward_hook(without_end)
    try:
        expected = [model.text_of(beam_by_hand(model, item, 3)) for item in examples]
        greedy = [model.text_of(by_hand(model, number, examples)) for number in range(4)]
        found = model.generate(examples, SILENT, "")
    finally:
        handle.remove()
    assert found == expected != greedy


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_samples_have_the_probabilities_of_the_model(
    name: str, method: str, backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = DecodingConfig(strategy="sample", temperature=2.0, top_p=0.6)
    model = generator(backbones[name], method, TABLES.model_copy(update={"max_new_tokens": 1, "decoding": decoding}))
    item = model.encode(tables(1)[0])
    logits = next_logits(model, list(item.ids), [], []) / 2.0
    probabilities = logits.softmax(dim=0)
    order = probabilities.argsort(descending=True)
    kept = order[: int((probabilities[order].cumsum(dim=0) < 0.6).sum()) + 1]
    expected = torch.zeros_like(probabilities)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    end = model.backbone.tokenizer.eos_token_id
    ids: list[int] = []
    monkeypatch.setattr(model, "text_of", lambda row: ids.append(row[0] if row else end))
    model.generate([replace(tables(1)[0], uid=f"copy-{number}") for number in range(1500)], SILENT, "")
    counts = torch.bincount(torch.tensor(ids), minlength=len(expected))
    assert len(kept) > 2
    assert float((counts / 1500 - expected).abs().max()) < 0.05
    assert set(counts.nonzero()[:, 0].tolist()) <= set(kept.tolist())


def test_the_seed_decides_samples(backbones: dict[str, Backbone]) -> None:
    def texts(seed: int, count: int = 4, start: int = 0) -> list[str]:
        task = TABLES.model_copy(update={"decoding": SAMPLE.model_copy(update={"seed": seed}), "max_new_tokens": 8})
        return generator(backbones["gpt2"], task=task).generate(tables(count, start), SILENT, "")

    torch.manual_seed(0)
    first = texts(1)
    before = torch.get_rng_state()
    assert texts(1) == first != texts(2)
    assert [*texts(1, 2), *texts(1, 2, start=2)] == first, "other texts of a batch do not change a sample"
    assert torch.equal(before, torch.get_rng_state()), "other random numbers do not change"


def test_the_generation_config_of_a_model_is_not_used(
    backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = generator(backbones["gpt2"], task=TABLES.model_copy(update={"max_new_tokens": 6}))
    expected = model.generate(tables(3), SILENT, "")
    own = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0, min_new_tokens=6)
    monkeypatch.setattr(model.backbone.model, "generation_config", own)
    assert model.generate(tables(3), SILENT, "") == expected
    assert model.backbone.model.generation_config is own


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_inputs_of_one_length_are_generated_together_where_padding_is_not_ignored(
    name: str, backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TABLES.model_copy(update={"max_new_tokens": 6})
    model = generator(backbones[name], task=task)
    examples = tables(6)
    expected, loss = model.generate(examples, SILENT, ""), float(model.loss(model.items(examples)).detach())
    monkeypatch.setattr(model.backbone, "traits", replace(model.backbone.traits, padding="none"))
    shapes: list[set[int]] = []
    batch = model.backbone.batch

    def recorded(texts: Any) -> Any:
        shapes.append({len(text.ids) for text in texts})
        return batch(texts)

    monkeypatch.setattr(model.backbone, "batch", recorded)
    assert model.generate(examples, SILENT, "") == expected
    assert len(shapes) > 1
    assert all(len(lengths) == 1 for lengths in shapes)
    assert float(model.loss(model.items(examples)).detach()) == pytest.approx(loss, rel=1e-5)


def test_a_masked_model_raises(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(InputError, match="a masked model does not generate texts"):
        generator(backbones["bert"])


def test_an_input_is_shortened_and_a_target_is_cut(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["t5"]
    prompt = new_prompt(METHODS["prompt_tuning"], backbone, TABLES.input_pattern, seed=1)
    task = TABLES.model_copy(update={"max_new_tokens": 3})
    model = TextGenerator(task, backbone, backbone_config(Path(), max_length=40), prompt)
    long = replace(tables(1)[0], fields={"name": "great " * 60, "food": "bad"})
    item = model.items([long])[0]
    assert len(item.encoded.ids) == 40
    assert item.encoded.ids[-1] == backbone.tokenizer.eos_token_id
    assert "bad" in backbone.tokenizer.decode(item.encoded.ids), "the longest field is shortened"
    assert item.is_cut
    assert len(item.target) == 3
    assert item.target[-1] != backbone.tokenizer.eos_token_id
