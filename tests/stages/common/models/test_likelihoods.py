"""Tests that label words of several tokens have the likelihood of transformers' own forward pass.

The architectures scale or cap their logits, which changes a likelihood. T5 scales its states if its LM head is tied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from stages.common.models import batching
from stages.common.models.backbones.loader import load_backbone
from stages.common.models.cloze.classifier import ClozeClassifier
from stages.common.protocols import NullRecorder
from tests.support.small_models import TOKENIZERS, backbone_config, film_examples, film_task

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
}
T5_SHAPE = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
MODELS: dict[str, Any] = {
    "llama": lambda ids: LlamaForCausalLM(LlamaConfig(**SHAPE, **ids)),
    "granite": lambda ids: GraniteForCausalLM(GraniteConfig(**SHAPE, **ids, logits_scaling=4.0)),
    "gemma2": lambda ids: Gemma2ForCausalLM(Gemma2Config(**SHAPE, **ids, head_dim=8, final_logit_softcapping=0.5)),
    "cohere": lambda ids: CohereForCausalLM(CohereConfig(**SHAPE, **ids, logit_scale=0.25)),
    "t5": lambda ids: T5ForConditionalGeneration(T5Config(**T5_SHAPE, **ids)),
    "t5 1.1": lambda ids: T5ForConditionalGeneration(
        T5Config(**T5_SHAPE, **ids, tie_word_embeddings=False, feed_forward_proj="gated-gelu")
    ),
}
WORDS = {"rotten": ["very bad", "terrible"], "fresh": ["great", "good and fine"]}


def save(name: str, folder: Path) -> Any:
    """Writes a random model with large weights, and returns it."""
    tokenizer = TOKENIZERS["t5" if name.startswith("t5") else "llama"]()
    torch.manual_seed(3)
    model = MODELS[name]({"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}).eval()
    for weight in model.parameters():
        weight.data += torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def log_likelihood(model: Any, text: tuple[int, ...], word: tuple[int, ...]) -> float:
    """Returns the log-likelihood of a word after a text, or of T5's decoder after its sentinel."""
    if model.config.is_encoder_decoder:
        (sentinel,) = [item for item in text if item == model.sentinel]
        decoded = torch.tensor([[0, sentinel, *word]])
        logits = model(input_ids=torch.tensor([text]), decoder_input_ids=decoded).logits[0, 1:]
    else:
        logits = model(input_ids=torch.tensor([[*text, *word]])).logits[0, len(text) - 1 :]
    return sum(float(row.log_softmax(dim=0)[item]) for row, item in zip(logits, word, strict=False))


@pytest.mark.parametrize("name", MODELS)
def test_words_of_several_tokens_have_the_likelihood_of_transformers(name: str, tmp_path: Path) -> None:
    plain = save(name, tmp_path)
    family = "t5" if name.startswith("t5") else "llama"
    config = backbone_config(tmp_path)
    backbone = load_backbone(config, frozen=True)
    if family == "t5":
        plain.sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    task = film_task(family).model_copy(update={"verbalizer": WORDS})
    classifier = ClozeClassifier.of(task, "review", backbone, config)
    examples = film_examples(3)
    with torch.no_grad():
        expected = [
            [
                np.mean([log_likelihood(plain, item.ids, word) for word in words])
                for words in classifier.verbalizer.words
            ]
            for (item,) in map(classifier.encode, examples)
        ]
    actual = classifier.predict(examples, NullRecorder(), "")
    assert np.std(expected) > 0.01
    assert actual == pytest.approx(np.array(expected), abs=1e-4)


def test_attention_on_a_gpu_is_one_that_the_architecture_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("gemma2", tmp_path / "gemma2")
    save("llama", tmp_path / "llama")
    monkeypatch.setattr(batching, "default_device", lambda: "cuda")  # used for the choice of the attention only
    kinds = [
        load_backbone(backbone_config(tmp_path / name), frozen=True).model.config._attn_implementation
        for name in ("gemma2", "llama")
    ]
    assert kinds == ["eager", "sdpa"]
