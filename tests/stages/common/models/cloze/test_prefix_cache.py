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
    "words_behind": "Review: {text}\n{soft:2}Sentiment:{soft:1:the}{mask}",
    "field_behind": "{text}{soft:3} It was {other}:{mask}",
}


def task(name: str) -> Task:
    return film_task("llama").only("review").model_copy(update={"patterns": {"review": PATTERNS[name]}})


def classifier(backbone: Backbone, name: str, prompt: PromptConfig | None = None) -> tuple[ClozeClassifier, Prompt]:
    made = new_prompt(prompt or PromptConfig(), backbone, task(name).pattern("review"), seed=1)
    return ClozeClassifier.of(task(name), "review", backbone, backbone_config(Path("unused")), made), made


def examples() -> list[Example]:
    """Of different lengths, before and behind the prompt."""
    found = []
    for number, item in enumerate(film_examples(6)):
        words = " ".join(["the music"] * number)
        found.append(
            Example(item.uid, {"text": f"{item.fields['text']} {words}".strip(), "other": words or "a"}, item.label)
        )
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_cached_loss_and_gradients_equal_those_of_the_full_text(
    name: str, pattern: str, backbones: dict[str, Backbone]
) -> None:
    whole, prompt = classifier(backbones[name], pattern)
    assert can_be_cached(whole)
    items = whole.items(examples())
    cached = CachedTexts(whole)
    found = []
    for loss_of in (whole.loss, cached.loss, cached.loss):  # the second time from what was kept
        prompt.zero_grad()
        loss = loss_of(items)
        loss.backward()
        found.append((loss.detach(), next(prompt.parameters()).grad.clone()))
    for loss, grad in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(grad, found[0][1], atol=1e-5, rtol=1e-4)


def test_text_is_read_once_within_the_memory_limit(
    backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = classifier(backbones["llama"], "end")
    items = whole.items(examples())
    read: list[int] = []

    def counting(cache: CachedTexts) -> CachedTexts:
        plain = cache._compute
        monkeypatch.setattr(cache, "_compute", lambda stems: read.append(len(stems)) or plain(stems))
        return cache

    roomy = counting(CachedTexts(whole))
    for _ in range(3):
        roomy.loss(items)
    assert read == [6]
    stem = items[0].cloze[0].soft_positions[0]
    per_token = 2 * 2 * 2 * 8 * 4  # layers, key and value, heads, width, bytes
    assert roomy.num_bytes == sum(item.cloze[0].soft_positions[0] for item in items) * per_token
    read.clear()
    narrow = counting(CachedTexts(whole, max_bytes=stem * per_token))
    first, second = narrow.loss(items), narrow.loss(items)
    assert read == [6, 5], "one text has room"
    assert torch.equal(first, second)


def test_can_be_cached_checks_pattern_and_family(backbones: dict[str, Backbone]) -> None:
    def made(family: str, text: str, **settings: object) -> bool:
        own = film_task(family).only("review").model_copy(update={"patterns": {"review": text}})
        prompt = new_prompt(PromptConfig(**settings), backbones[family], own.pattern("review"), seed=1)
        return can_be_cached(
            ClozeClassifier.of(own, "review", backbones[family], backbone_config(Path("unused")), prompt)
        )

    assert made("llama", "{text}{soft:2}{mask}")
    assert not made("llama", "{soft:2}{text}{mask}"), "the prompt changes what stands behind it"
    assert not made("llama", "{text}{mask}"), "the prompt stands before the text"
    assert not made("llama", "{text}{soft:2}{mask} indeed"), "the text behind the mask is scored, too"
    assert not made("bert", "{text}{soft:2}{mask}"), "a masked model reads in both directions"
