"""Prompts that depend on the text: IDPG and ATTEMPT, compared with the formulas of their papers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.common.errors import InputError
from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.backbones.soft_input import SoftInput
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.multi_task import multi_task_logits
from stages.common.models.cloze.prefix_cache import can_be_cached
from stages.common.patterns.config import Task
from stages.common.patterns.encoding import Encoded
from stages.common.prompts.config import PromptConfig, TransferConfig
from stages.common.prompts.initialization import new_prompt, pretrained_vectors, source_vectors
from stages.common.prompts.peft_format import load_prompt, save_prompt
from stages.common.prompts.soft_prompt import Prompt
from stages.common.prompts.text_prompts import TextReader
from tests.support.prompt_methods import METHODS, soft_task
from tests.support.small_models import FAMILIES, backbone_config, film_task

ATTEMPT = PromptConfig(method="attempt", num_virtual_tokens=5, bottleneck_size=6, temperature=2.0, sources=("ppt",))
CONFIGS = {"idpg": METHODS["idpg"], "idpg_embeddings": METHODS["idpg_embeddings"], "attempt": ATTEMPT}
SOURCES = list(torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3)))
LONG_WORDS = {"rotten": ["very bad"], "fresh": ["great", "good and fine"]}


def random_prompt(config: PromptConfig, backbone: Backbone, task: Task, seed: int = 1) -> Prompt:
    """Returns a prompt whose vectors differ clearly between texts."""
    sources = SOURCES if config.method == "attempt" else ()
    prompt = new_prompt(config, backbone, task.pattern("review"), seed=seed, sources=sources)
    assert prompt is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return prompt


def classifier_of(
    config: PromptConfig, backbone: Backbone, name: str, task: Task | None = None, seed: int = 1
) -> ClozeClassifier:
    task = task or film_task(name).only("review")
    prompt = random_prompt(config, backbone, task, seed)
    return ClozeClassifier.of(task, "review", backbone, backbone_config(Path("unused")), prompt)


def items_of(classifier: ClozeClassifier) -> list[Encoded]:
    """Returns texts of different lengths."""
    texts = ("Dull.", "A warm and clever story about two sisters.", "It was fine, and the plot was terrible.")
    items = [classifier.encode(Example(text, {"text": text}))[0] for text in texts]
    assert len({len(item.ids) for item in items}) == 3
    return items


def vectors_of(prompt: Prompt, items: list[Encoded]) -> Tensor:
    soft = prompt(items)
    vectors = soft.before if soft.inside is None else soft.inside
    assert vectors is not None
    return vectors


def numbers(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def states_by_model(backbone: Backbone, ids: tuple[int, ...]) -> NDArray[np.float64]:
    """Returns the last hidden states [L, D] of one text, from transformers."""
    tokens = torch.tensor([ids])
    with torch.no_grad():
        if backbone.family == "seq2seq":
            return numbers(backbone.model.get_encoder()(input_ids=tokens).last_hidden_state[0])
        return numbers(backbone.model(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reading", ["backbone", "embeddings"])
def test_instance_prompts_are_an_mlp_of_the_mean(name: str, reading: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    config = CONFIGS["idpg" if reading == "backbone" else "idpg_embeddings"]
    classifier = classifier_of(config, backbone, name)
    items, prompt = items_of(classifier), classifier.prompt
    assert isinstance(prompt, Prompt)
    actual = vectors_of(prompt, items)
    weights = {key: numbers(value) for key, value in prompt.table.state_dict().items()}
    table = numbers(backbone.model.get_input_embeddings().weight)
    assert actual.shape == (3, 5, 32)
    for item, vectors in zip(items, actual, strict=True):
        read = states_by_model(backbone, item.ids) if reading == "backbone" else table[list(item.ids)]
        hidden = weights["down.weight"] @ read.mean(axis=0) + weights["down.bias"]
        gelu = [value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in hidden]
        expected = (weights["up.weight"] @ gelu + weights["up.bias"]).reshape(5, 32)
        assert numbers(vectors) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("temperature", [None, 2.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_mixtures_are_weighted_sums_of_prompts(
    name: str, temperature: float | None, backbones: dict[str, Backbone]
) -> None:
    backbone = backbones[name]
    classifier = classifier_of(ATTEMPT.model_copy(update={"temperature": temperature}), backbone, name)
    items, prompt = items_of(classifier), classifier.prompt
    assert isinstance(prompt, Prompt)
    actual = vectors_of(prompt, items)
    weights = {key: numbers(value) for key, value in prompt.table.state_dict().items()}
    table = numbers(backbone.model.get_input_embeddings().weight)
    prompts = [*(numbers(source) for source in SOURCES), weights["target"]]
    for item, vectors in zip(items, actual, strict=True):
        down = weights["down.weight"] @ table[list(item.ids)].max(axis=0)
        up = weights["up.weight"] @ (down / (1 + np.exp(-down)))
        normed = (up - up.mean()) / np.sqrt(up.var() + 1e-5) * weights["norm.weight"] + weights["norm.bias"]
        scores = np.array([vectors_ND.max(axis=0) @ normed for vectors_ND in prompts])
        shares = np.exp(scores / (temperature or math.e * 32))
        shares /= shares.sum()
        expected = weights["target"] + sum(share * item for share, item in zip(shares, prompts, strict=True))
        assert numbers(vectors) == pytest.approx(expected, abs=1e-4)
    assert (actual[0] - actual[1]).abs().max() > 1e-3


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["before", "inside", "long words"])
def test_padding_and_other_texts_do_not_change_scores(
    name: str, method: str, kind: str, backbones: dict[str, Backbone]
) -> None:
    task = soft_task(name) if kind == "inside" else film_task(name).only("review")
    if kind == "long words":
        task = task.model_copy(update={"verbalizer": LONG_WORDS})
    classifier = classifier_of(CONFIGS[method], backbones[name], name, task)
    items = items_of(classifier)
    for training in (False, True):
        with torch.no_grad():
            batched = classifier.logits([(item,) for item in items], training=training)
            alone = [classifier.logits([(item,)], training=training) for item in items]
            order = classifier.logits([(item,) for item in items[::-1]], training=training)
        torch.testing.assert_close(batched, torch.cat(alone), atol=2e-4, rtol=0)
        torch.testing.assert_close(batched, order.flip(0), atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_text_is_scored_with_its_own_vectors(name: str, method: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    classifier = classifier_of(CONFIGS[method], backbone, name)
    items, prompt = items_of(classifier), classifier.prompt
    assert isinstance(prompt, Prompt)
    words = classifier.verbalizer.flat
    with torch.no_grad():
        actual = classifier.logits([(item,) for item in items])
        for row, (item, vectors) in enumerate(zip(items, vectors_of(prompt, items), strict=True)):
            ids = [word[0] for word in words]
            scores = backbone.word_logits(backbone.batch([item]), ids, SoftInput(before=vectors))
            torch.testing.assert_close(classifier.answers(scores, 1)[0], actual[row], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_instance_prompts_start_from_the_initial_vectors(name: str, backbones: dict[str, Backbone]) -> None:
    pattern = film_task(name).pattern("review")
    plain, new = (
        new_prompt(PromptConfig(method=method, num_virtual_tokens=4), backbones[name], pattern, seed=2)
        for method in ("prompt_tuning", "idpg")
    )
    assert plain is not None
    assert new is not None
    items = items_of(classifier_of(METHODS["idpg"], backbones[name], name))
    torch.testing.assert_close(vectors_of(new, items), plain.vectors.expand(3, -1, -1))
    assert new.num_virtual_tokens == 4


def test_soft_blocks_are_not_read(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    classifier = classifier_of(METHODS["idpg"], backbone, "bert", soft_task("bert"))
    reader = TextReader(backbone, "mean_state")
    for item in items_of(classifier):
        ids = tuple(token for index, token in enumerate(item.ids) if index not in item.soft_positions)
        assert len(ids) == len(item.ids) - 5
        expected = states_by_model(backbone, ids).mean(axis=0)
        assert numbers(reader([item])[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", CONFIGS)
def test_a_text_without_words_has_vectors(method: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones["gpt2"]
    task = film_task("gpt2").only("review").model_copy(update={"patterns": {"review": "{soft:5}{text}{mask}"}})
    classifier = classifier_of(CONFIGS[method], backbone, "gpt2", task)
    clozes = [classifier.encode(Example(text, {"text": text})) for text in ("", "A dull plot.")]
    assert len(clozes[0][0].ids) == len(clozes[0][0].soft_positions) == 5
    with torch.no_grad():
        batched, alone = classifier.logits(clozes), classifier.logits(clozes[:1])
    assert batched.isfinite().all()
    torch.testing.assert_close(batched[:1], alone, atol=2e-4, rtol=0)


def test_texts_are_read_without_dropout_and_gradients(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["gpt2"]
    items = items_of(classifier_of(METHODS["idpg"], backbone, "gpt2"))
    reader = TextReader(backbone, "mean_state")
    expected = reader(items)
    backbone.model.train()
    try:
        assert torch.equal(reader(items), expected)
        assert backbone.model.training
    finally:
        backbone.model.eval()
    assert not expected.requires_grad
    assert not expected.is_inference()


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("kind", ["before", "inside"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_saved_prompts_predict_the_same(
    name: str, kind: str, method: str, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    task = soft_task(name) if kind == "inside" else None
    classifier = classifier_of(CONFIGS[method], backbones[name], name, task)
    clozes = [(item,) for item in items_of(classifier)]
    assert isinstance(classifier.prompt, Prompt)
    save_prompt(classifier.prompt, backbones[name], tmp_path / "prompt")
    assert {path.name for path in (tmp_path / "prompt").iterdir()} == {"prompt.json", "text_prompt.safetensors"}
    with torch.no_grad():
        expected = classifier.logits(clozes)
        classifier.prompt = load_prompt(tmp_path / "prompt", backbones[name])
        assert torch.equal(classifier.logits(clozes), expected)
    path = tmp_path / "prompt/prompt.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone": "another"}))
    with pytest.raises(InputError, match="trained for another backbone"):
        load_prompt(tmp_path / "prompt", backbones[name])


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_of_all_kinds_share_a_pass(name: str, backbones: dict[str, Backbone]) -> None:
    backbone, parts = backbones[name], []
    plain = {"plain": METHODS["prompt_tuning"], "deep": METHODS["p_tuning_v2"]}
    for seed, (method, config) in enumerate((plain | CONFIGS).items()):
        task = soft_task(name) if method == "idpg_embeddings" else None
        classifier = classifier_of(config, backbone, name, task, seed)
        parts.append((classifier, [(item,) for item in items_of(classifier)[: 1 + seed % 3]]))
    for training in (False, True):
        with torch.no_grad():
            mixed = multi_task_logits(parts, training=training)
            for (classifier, clozes), logits in zip(parts, mixed, strict=True):
                torch.testing.assert_close(logits, classifier.logits(clozes, training=training), atol=3e-4, rtol=0)


def test_keys_and_values_of_texts_are_not_cached(backbones: dict[str, Backbone]) -> None:
    task = film_task("gpt2").only("review").model_copy(update={"patterns": {"review": "Review: {text}{soft:5}{mask}"}})
    cached = {name: classifier_of(config, backbones["gpt2"], "gpt2", task) for name, config in METHODS.items()
              if name in ("prompt_tuning", "idpg")}  # fmt: skip
    assert can_be_cached(cached["prompt_tuning"])
    assert not can_be_cached(cached["idpg"])
    assert not can_be_cached(classifier_of(ATTEMPT, backbones["gpt2"], "gpt2", task))


def test_only_the_network_and_the_target_are_trained(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["bert"]
    sizes = {"idpg": 8 * (32 + 1) + (8 + 1) * 5 * 32, "attempt": 5 * 32 + 2 * 6 * 32 + 2 * 32}
    for method, size in sizes.items():
        config = CONFIGS[method]
        prompt = random_prompt(config, backbone, film_task("bert"))
        assert sum(item.numel() for item in prompt.parameters()) == size
        assert config.num_network_weights(32) + config.num_virtual_tokens * 32 == size
        classifier = classifier_of(config, backbone, "bert")
        classifier.logits([(item,) for item in items_of(classifier)], training=True).square().sum().backward()
        assert isinstance(classifier.prompt, Prompt)
        assert all(item.grad is not None and item.grad.abs().max() > 0 for item in classifier.prompt.parameters())
    assert all(weight.grad is None for weight in backbone.model.parameters())


def test_sources_have_constant_input_vectors_of_one_number(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    backbone, task = backbones["bert"], film_task("bert")
    configs = {
        "plain": METHODS["prompt_tuning"],
        "deep": METHODS["p_tuning_v2"],
        "text": METHODS["idpg"],
        "short": PromptConfig(num_virtual_tokens=3),
    }
    for name, config in configs.items():
        save_prompt(random_prompt(config, backbone, task), backbone, tmp_path / name / "prompt")
    (vectors,) = source_vectors([tmp_path / "plain"], backbone)
    assert torch.equal(vectors, random_prompt(configs["plain"], backbone, task).vectors)
    for name, problem in (("deep", "at another place of the model"), ("text", "depends on the text")):
        with pytest.raises(InputError, match=problem) as caught:
            source_vectors([tmp_path / name], backbone)
        assert caught.value.key == "sources"
    short = source_vectors([tmp_path / "short"], backbone)
    with pytest.raises(InputError, match="a source prompt has 3 vectors, but the mixture has 5"):
        new_prompt(ATTEMPT, backbone, task.pattern("review"), seed=1, sources=short)
    spot = PromptConfig(transfer=TransferConfig(task="films", method="text"))
    with pytest.raises(InputError, match="depends on the text") as caught:
        pretrained_vectors(spot, backbone, tmp_path / "text")
    assert caught.value.key == "transfer"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sources": ["ppt"]}, "sources is for attempt, not for prompt_tuning"),
        ({"bottleneck_size": 3}, "bottleneck_size is for idpg and attempt"),
        ({"method": "attempt", "sources": ["ppt"], "text_encoder": "embeddings"}, "text_encoder is for idpg"),
        ({"method": "idpg", "temperature": 2.0}, "temperature is for attempt"),
        ({"method": "idpg", "rank": 2}, "rank is for vectors that are the same for all texts"),
        ({"method": "idpg", "gates": True}, "gates is for vectors that are the same"),
        ({"method": "idpg", "noise": 0.1}, "noise is for vectors that are the same"),
        ({"method": "idpg", "hard_prompt_steps": 2}, "hard_prompt_steps is for vectors that are the same"),
        ({"method": "idpg", "lora": {}}, "which adapters would change"),
        ({"method": "idpg", "reparameterization": "mlp"}, "cannot be reparameterized by mlp"),
        ({"method": "idpg", "layers": [0]}, "layers is for vectors of layers"),
        ({"method": "attempt"}, "attempt mixes trained prompts, and none is set"),
        ({"method": "attempt", "sources": ["ppt", "ppt"]}, "lists a prompt twice"),
        ({"method": "attempt", "sources": ["ppt"], "temperature": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PromptConfig.model_validate(settings)
