"""Tests of soft prompts: padding, soft blocks, and patterns that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.common.errors import InputError, PatternError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.patterns.encoding import Encoder
from stages.common.prompts.config import InitConfig, PromptConfig
from stages.common.prompts.initialization import init_vectors, new_prompt
from stages.common.prompts.soft_prompt import Prompt
from stages.common.seeds import torch_rng
from tests.support.prompt_methods import METHODS, soft_task
from tests.support.small_models import FAMILIES, backbone_config, film_examples, film_task
from tests.support.stage_runs import SILENT


def encoded(backbone: Backbone, name: str, texts: tuple[str, ...] = ("A dull plot.", "It was a warm film.")) -> Any:
    encoder = Encoder(film_task(name).pattern("review"), backbone.tokenizer, backbone.family, 64)
    return [encoder(Example(str(number), {"text": text})) for number, text in enumerate(texts)]


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning_v2"])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_and_batching_do_not_change_logits(name: str, method: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    items = encoded(backbone, name)
    assert len(items[0].ids) != len(items[1].ids)
    pattern = film_task(name).pattern("review")
    prompts = [new_prompt(METHODS[method], backbone, pattern, seed=seed) for seed in (1, 2)]
    stacked = prompts[0].soft_input(torch.stack([prompt.vectors for prompt in prompts]))
    with torch.inference_mode():
        batched = backbone.vocabulary_logits(backbone.batch(items), stacked)
        pairs = zip(items, prompts, strict=True)
        separate = [backbone.vocabulary_logits(backbone.batch([item]), prompt([])) for item, prompt in pairs]
    torch.testing.assert_close(batched, torch.cat(separate), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_soft_blocks_initialized_from_words_equal_the_words(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    words = backbone.tokenizer("the film", add_special_tokens=False)["input_ids"]
    text = f"Review: {{text}} {{soft:{len(words)}:the film}} {{mask}}"
    task = film_task(name).only("review").model_copy(update={"patterns": {"review": text}})
    pattern = task.pattern("review")
    prompt = new_prompt(PromptConfig(), backbone, pattern, seed=1)
    config = backbone_config(Path("unused"))
    classifier = ClozeClassifier.of(task, "review", backbone, config, prompt)
    item = classifier.encode(film_examples(1)[0])[0]
    hard = type(item)(
        tuple(
            words[item.soft_positions.index(position)] if position in item.soft_positions else token
            for position, token in enumerate(item.ids)
        ),
        item.token_type_ids,
        item.mask_position,
    )
    with torch.inference_mode():
        actual = backbone.vocabulary_logits(backbone.batch([item]), prompt([]))
        expected = backbone.vocabulary_logits(backbone.batch([hard]))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_words_of_several_tokens_shift_later_soft_blocks(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    task = soft_task("bert").model_copy(
        update={
            "patterns": {"review": "{text} {mask} {soft:2}."},
            "verbalizer": {"rotten": ["so bad"], "fresh": ["good"]},
        }
    )
    prompt = new_prompt(PromptConfig(), backbone, task.pattern("review"), seed=1)
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config(Path("unused")), prompt)
    item = classifier.encode(film_examples(1)[0])[0]
    assert item.soft_positions == (item.mask_position + 1, item.mask_position + 2)
    assert item.with_masks(3).soft_positions == (item.mask_position + 3, item.mask_position + 4)
    actual = classifier.predict(film_examples(4), SILENT, "")
    separate = np.concatenate([classifier.predict([one], SILENT, "") for one in film_examples(4)])
    assert actual == pytest.approx(separate, abs=1e-4)


def test_new_prompt_rejects_incompatible_patterns(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["gpt2"]
    soft, hard = soft_task("gpt2").pattern("review"), film_task("gpt2").pattern("review")
    with pytest.raises(InputError, match="adds its vectors to every layer"):
        new_prompt(METHODS["p_tuning_v2"], backbone, soft, seed=0)
    with pytest.raises(InputError, match="'review' has none"):
        new_prompt(PromptConfig(hard_prompt_steps=2), backbone, hard, seed=0)
    with pytest.raises(InputError, match="5 soft vectors, and the pretrained prompt has 4"):
        new_prompt(PromptConfig(init="ppt"), backbone, soft, seed=0, pretrained=torch.zeros(4, 32))
    with pytest.raises(PatternError, match="only prompt tuning trains"):
        ClozeClassifier.of(soft_task("gpt2"), "review", backbone, backbone_config(Path("unused")))
    late = soft_task("gpt2").model_copy(update={"patterns": {"review": "{text}{mask} it {soft:2}"}})
    prompt = new_prompt(PromptConfig(), backbone, late.pattern("review"), seed=0)
    with pytest.raises(PatternError, match="after the mask"):
        ClozeClassifier.of(late, "review", backbone, backbone_config(Path("unused")), prompt)


WITH_ENCODER = ("p_tuning_lstm", "p_tuning_mlp", "prefix_tuning", "p_tuning_v2_mlp")


def initialized(method: str, backbone: Backbone, kind: str) -> Prompt:
    init = InitConfig(kind=kind, text="the film" if kind == "text" else "")
    config = METHODS[method].model_copy(update={"init": init})
    return new_prompt(config, backbone, film_task("gpt2").pattern("review"), seed=2, label_words=[7, 9])


@pytest.mark.parametrize("method", WITH_ENCODER)
@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_prompts_with_an_encoder_start_from_their_init(method: str, name: str, backbones: dict[str, Backbone]) -> None:
    """They start as the same prompt without an encoder, and learn from there."""
    backbone = backbones[name]
    plain = "p_tuning_v2" if METHODS[method].is_deep else "prompt_tuning"
    for kind in ("text", "sample_vocab", "label_words", "cls", "zero"):
        prompt = initialized(method, backbone, kind)
        start = prompt.vectors
        torch.testing.assert_close(start, initialized(plain, backbone, kind).vectors, atol=1e-5, rtol=1e-5)
        (prompt.table() - 1).square().sum().backward()
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in prompt.parameters()), kind


@pytest.mark.parametrize("method", WITH_ENCODER)
def test_random_vectors_are_the_input_of_an_encoder(method: str, backbones: dict[str, Backbone]) -> None:
    """As in the papers and in PEFT."""
    prompt = initialized(method, backbones["gpt2"], "normal")
    vectors = init_vectors(InitConfig(kind="normal"), 5, backbones["gpt2"], torch_rng(2, "start"))
    if METHODS[method].is_deep:
        expected = prompt.table.mlp(vectors)
    else:
        assert torch.equal(prompt.table.encoder.embedding.weight, vectors)
        expected = prompt.table.encoder(torch.arange(5)[None])[0]
    torch.testing.assert_close(prompt.vectors, expected.detach())


def test_words_of_soft_blocks_are_the_start_of_p_tuning(backbones: dict[str, Backbone]) -> None:
    pattern = soft_task("gpt2").pattern("review")
    config = PromptConfig(method="p_tuning", init=InitConfig(kind="normal"))
    plain = PromptConfig(init=InitConfig(kind="normal"))
    prompts = [new_prompt(item, backbones["gpt2"], pattern, seed=1).vectors for item in (config, plain)]
    torch.testing.assert_close(*prompts)


def test_deep_prompts_have_no_mean() -> None:
    for method in ("prefix_tuning", "p_tuning_v2"):
        with pytest.raises(ValueError, match="cannot be initialized with a mean"):
            PromptConfig(method=method, init=InitConfig(kind="mean"))


def test_gates_scale_each_vector_and_each_layer_and_disappear_when_saved(backbones: dict[str, Backbone]) -> None:
    backbone, pattern = backbones["llama"], film_task("llama").pattern("review")
    for config, shape in (
        (PromptConfig(num_virtual_tokens=3, gates=True), (3, 1)),
        (PromptConfig(method="p_tuning_v2", num_virtual_tokens=3, gates=True), (3, 2)),
    ):
        gated = new_prompt(config, backbone, pattern, seed=1)
        plain = new_prompt(config.model_copy(update={"gates": False}), backbone, pattern, seed=1)
        assert gated is not None and plain is not None
        assert torch.equal(gated.vectors, plain.vectors), "a new gate changes nothing"
        gates = dict(gated.named_parameters())["table.gates"]
        assert gates.shape == shape
        with torch.no_grad():
            gates[1] = torch.logit(torch.tensor(0.25))
        gates[1, -1].data.fill_(-1e9)
        parts, first = (item.vectors.unflatten(1, (shape[1], -1)) for item in (gated, plain))
        torch.testing.assert_close(parts[1, :-1], 0.5 * first[1, :-1])
        assert not parts[1, -1].any(), "a closed gate"
        assert torch.equal(parts[[0, 2]], first[[0, 2]])


def test_noise_is_added_only_while_a_prompt_is_trained(backbones: dict[str, Backbone]) -> None:
    config = PromptConfig(num_virtual_tokens=200, noise=0.5)
    prompt = new_prompt(config, backbones["gpt2"], film_task("gpt2").pattern("review"), seed=1)
    assert prompt is not None
    torch.manual_seed(3)
    vectors, noisy = prompt.vectors.detach(), [prompt([]).before]
    torch.manual_seed(3)
    noisy.append(prompt([]).before)
    before, again = (item.detach() for item in noisy if item is not None)
    assert torch.equal(before, again), "the seed of a step decides"
    assert float((before - vectors).std() / vectors.std()) == pytest.approx(0.5, rel=0.05)
    with torch.inference_mode():
        assert torch.equal(prompt([]).before, vectors)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"gates": True, "hard_prompt_steps": 3}, "gates are trained from the first step"),
        ({"noise": -1}, "greater than or equal to 0"),
        ({"method": "lora"}, "needs the settings of its adapters"),
        ({"method": "lora", "lora": {}, "noise": 0.1}, "noise is for vectors"),
        ({"method": "lora", "lora": {}, "num_virtual_tokens": 3}, "num_virtual_tokens is for vectors"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PromptConfig.model_validate(settings)
