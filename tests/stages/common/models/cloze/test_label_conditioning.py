"""Tests of ADAPET's auxiliary loss: which tokens are hidden under which label, and the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stages.common.models.backbones.base import Backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.models.cloze.config import LabelConditioningConfig
from stages.common.models.cloze.label_conditioning import ConditionedText, LabelConditioning
from stages.common.models.cloze.mlm import IGNORED
from stages.common.patterns.config import Task
from stages.common.prompts.config import PromptConfig
from stages.common.prompts.initialization import new_prompt
from tests.support.small_models import backbone_config, film_examples, film_task


def conditioning(backbone: Backbone, task: Task, max_masked: float = 0.4, prompt: object = None) -> LabelConditioning:
    classifier = ClozeClassifier.of(task, "review", backbone, backbone_config("unused"), prompt)  # type: ignore[arg-type]
    return LabelConditioning(classifier, LabelConditioningConfig(max_masked=max_masked))


def drawn(loss: LabelConditioning, count: int, seed: int = 0) -> list[ConditionedText]:
    torch.manual_seed(seed)
    return loss.draw(loss.classifier.items(film_examples(count)))


LONG = {"rotten": ["very bad"], "fresh": ["good and fine"]}


@pytest.mark.parametrize("verbalizer", [None, LONG], ids=["single", "long"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_texts_have_the_word_of_a_label_and_hidden_tokens(
    name: str, verbalizer: dict[str, list[str]] | None, backbones: dict[str, Backbone]
) -> None:
    task = film_task(name).model_copy(update={"verbalizer": verbalizer} if verbalizer else {})
    loss = conditioning(backbones[name], task)
    classifier, tokenizer = loss.classifier, backbones[name].tokenizer
    items = classifier.items(film_examples(200))
    torch.manual_seed(1)
    fractions = []
    for item, text in zip(items, loss.draw(items), strict=True):
        encoded, targets = text.masked.encoded, text.masked.targets
        original = [token if target == IGNORED else target for token, target in zip(encoded.ids, targets, strict=True)]
        mask = item.cloze[0].mask_position
        candidates = [
            (label, word)
            for label, words in enumerate(classifier.verbalizer.words)
            for word in words
            if tuple(original) == item.cloze[0].ids[:mask] + word + item.cloze[0].ids[mask + 1 :]
        ]
        [(label, word)] = candidates
        assert text.is_right == (label == item.label)
        hidden = [row for row, target in enumerate(targets) if target != IGNORED]
        assert hidden and not set(hidden) & set(range(mask, mask + len(word)))
        assert all(encoded.ids[row] == tokenizer.mask_token_id for row in hidden)
        assert not {original[row] for row in hidden} & set(tokenizer.all_special_ids)
        assert len(encoded.token_type_ids) == len(encoded.ids)
        fractions.append(len(hidden) / len(original))
    assert max(fractions) <= 0.4
    assert 0.1 < sum(fractions) / len(fractions) < 0.25, "half of the maximum on average"
    right = sum(text.is_right for text in drawn(loss, 200))
    assert 70 < right < 130, "each label is equally likely"


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_loss_equals_binary_cross_entropies_of_the_plain_model(name: str, backbones: dict[str, Backbone]) -> None:
    """Compares with the model's forward pass over all positions, one text at a time and without padding."""
    backbone = backbones[name]
    loss = conditioning(backbone, film_task(name))
    texts = drawn(loss, 6)
    assert {text.is_right for text in texts} == {True, False}
    losses = []
    with torch.inference_mode():
        actual = float(loss.loss(texts, texts))
        for text in texts:
            encoded = text.masked.encoded
            positions = torch.arange(len(encoded.ids))[None] + (2 if name == "roberta" else 0)
            segments = {"token_type_ids": torch.tensor([encoded.token_type_ids])} if name == "bert" else {}
            logits = backbone.model(input_ids=torch.tensor([encoded.ids]), position_ids=positions, **segments).logits
            for position, target in enumerate(text.masked.targets):
                if target != IGNORED:
                    probability = logits[0, position].softmax(dim=0)[target]
                    losses.append(F.binary_cross_entropy(probability, torch.tensor(float(text.is_right))))
    assert len(losses) > 6
    assert actual == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_loss_of_parts_adds_up(backbones: dict[str, Backbone]) -> None:
    loss = conditioning(backbones["bert"], film_task("bert"))
    texts = drawn(loss, 5)
    with torch.inference_mode():
        whole = float(loss.loss(texts, texts))
        parts = sum(float(loss.loss(texts[start : start + 2], texts)) for start in (0, 2, 4))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_draws_follow_the_seed_of_the_step(backbones: dict[str, Backbone]) -> None:
    loss = conditioning(backbones["bert"], film_task("bert"))
    assert drawn(loss, 4, seed=3) == drawn(loss, 4, seed=3) != drawn(loss, 4, seed=4)


def test_gradients_reach_a_soft_prompt(backbones: dict[str, Backbone]) -> None:
    task = film_task("bert").model_copy(update={"patterns": {"review": "Review: {soft:3} {text} It was {mask}."}})
    prompt = new_prompt(PromptConfig(num_virtual_tokens=3), backbones["bert"], task.pattern("review"), seed=1)
    loss = conditioning(backbones["bert"], task, prompt=prompt)
    texts = drawn(loss, 4)
    for text in texts:
        assert all(text.masked.targets[row] == IGNORED for row in text.masked.encoded.soft_positions)
    loss.loss(texts, texts).backward()
    assert prompt is not None
    gradients = [weight.grad for weight in prompt.parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
