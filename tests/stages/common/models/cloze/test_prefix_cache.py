"""Tests of training over a cached prefix: equal to training over the full text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.prefix_cache import CachedTexts, can_be_cached
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from stages.common.prompts.soft_prompt import Prompt
from tests.support.small_models import backbone_config, film_examples, film_task

PATTERNS = {
    "end": "Review: {text}{soft:4}{mask}",
    "words_after": "Review: {text}\n{soft:2}Sentiment:{soft:1:the}{mask}",
    "field_after": "{text}{soft:3} It was {other}:{mask}",
}


def task(name: str) -> Task:
    return film_task("llama").only("review").model_copy(update={"patterns": {"review": PATTERNS[name]}})


def classifier(backbone: Backbone, name: str, prompt: PromptConfig | None = None) -> tuple[ClozeClassifier, Prompt]:
    created = new_prompt(prompt or PromptConfig(), backbone, task(name).pattern("review"), seed=1)
    return ClozeClassifier.of(task(name), "review", backbone, backbone_config(Path("unused")), created), created


def examples() -> list[Example]:
    """Returns examples with different lengths before and after the prompt."""
    actual = []
    for number, item in enumerate(film_examples(6)):
        words = " ".join(["the music"] * number)
        actual.append(
            Example(item.uid, {"text": f"{item.fields['text']} {words}".strip(), "other": words or "a"}, item.label)
        )
    return actual


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_cached_loss_and_gradients_equal_those_of_the_full_text(
    name: str, pattern: str, backbones: dict[str, Backbone]
) -> None:
    full, prompt = classifier(backbones[name], pattern)
    assert can_be_cached(full)
    items = full.items(examples())
    cached = CachedTexts(full)
    actual = []
    for compute_loss in (full.loss, cached.loss, cached.loss):  # the second time from the cache
        prompt.zero_grad()
        loss = compute_loss(items)
        loss.backward()
        actual.append((loss.detach(), next(prompt.parameters()).grad.clone()))
    for loss, grad in actual[1:]:
        torch.testing.assert_close(loss, actual[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(grad, actual[0][1], atol=1e-5, rtol=1e-4)


def test_text_is_read_once_within_the_memory_limit(
    backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, _ = classifier(backbones["llama"], "end")
    items = full.items(examples())
    read: list[int] = []

    def counting(cache: CachedTexts) -> CachedTexts:
        plain = cache._compute
        monkeypatch.setattr(cache, "_compute", lambda stems: read.append(len(stems)) or plain(stems))
        return cache

    roomy = counting(CachedTexts(full))
    for _ in range(3):
        roomy.loss(items)
    assert read == [6]
    stem = items[0].cloze[0].soft_positions[0]
    per_token = 2 * 2 * 2 * 8 * 4  # layers, key and value, heads, width, bytes
    assert roomy.num_bytes == sum(item.cloze[0].soft_positions[0] for item in items) * per_token
    read.clear()
    narrow = counting(CachedTexts(full, max_bytes=stem * per_token))
    first, second = narrow.loss(items), narrow.loss(items)
    assert read == [6, 5], "one text fits"
    assert torch.equal(first, second)


def test_can_be_cached_checks_pattern_and_family(backbones: dict[str, Backbone]) -> None:
    def created(family: str, text: str, **settings: object) -> bool:
        own = film_task(family).only("review").model_copy(update={"patterns": {"review": text}})
        prompt = new_prompt(PromptConfig(**settings), backbones[family], own.pattern("review"), seed=1)
        return can_be_cached(
            ClozeClassifier.of(own, "review", backbones[family], backbone_config(Path("unused")), prompt)
        )

    assert created("llama", "{text}{soft:2}{mask}")
    assert not created("llama", "{soft:2}{text}{mask}"), "the prompt changes the text after it"
    assert not created("llama", "{text}{mask}"), "the prompt is before the text"
    assert not created("llama", "{text}{soft:2}{mask} indeed"), "the text after the mask is scored, too"
    assert not created("bert", "{text}{soft:2}{mask}"), "a masked model reads in both directions"
