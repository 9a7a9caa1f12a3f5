"""Tests of deep prompts."""

from __future__ import annotations

from typing import Any

import torch

from stages.common.examples import Example
from stages.common.models.backbones.base import Backbone
from stages.common.patterns.encoding import Encoder
from stages.common.prompts.deep_prompts import DeepLayout, activations
from stages.common.prompts.soft_prompt import Prompt, PromptEmbedding
from tests.support.small_models import film_task


def encoded(backbone: Backbone, name: str, texts: tuple[str, ...] = ("A dull plot.", "It was a warm film.")) -> Any:
    encoder = Encoder(film_task(name).pattern("review"), backbone.tokenizer, backbone.family, 64)
    return [encoder(Example(str(number), {"text": text})) for number, text in enumerate(texts)]


def test_deep_prompt_of_activations_equals_reading_the_words(
    backbones: dict[str, Backbone],
) -> None:
    for name in ("llama", "gpt2"):
        backbone = backbones[name]
        words = backbone.tokenizer("The film is warm.", add_special_tokens=False)["input_ids"]
        layers = DeepLayout.of(backbone)
        rows = activations(backbone, layers, words)
        text = backbone.tokenizer(" It was", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            expected = backbone.model(input_ids=torch.tensor([[*words, *text]])).logits[:, -1]
            item = encoded(backbone, name)[0]
            item = type(item)(tuple(text), (0,) * len(text), len(text) - 1)
            prompt = Prompt(PromptEmbedding(rows), "layers", layers)
            actual = backbone.vocabulary_logits(backbone.batch([item]), prompt([]))
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
